//! The rules of the house that no compiler checks.

use std::fs;
use std::path::Path;
use std::process::Command;

const FILE_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 70;

/// Every tracked file that is text, with its content; not what npm writes by itself.
fn tracked() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = Command::new("git").arg("-C").arg(root).args(["ls-files", "-z"]).output();
    let listed = listed.unwrap_or_else(|err| panic!("git: {err} (scripts/test installs what the tests need)"));
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).expect("names are UTF-8");
    // Lock files are written by tools.
    let names = names.split_terminator('\0').filter(|name| !name.ends_with("package-lock.json") && !name.ends_with("Cargo.lock"));
    // A file that is deleted and not committed yet, or not UTF-8, has no text.
    names.filter_map(|name| fs::read_to_string(root.join(name)).ok().map(|text| (name.to_owned(), text))).collect()
}

/// The Rust sources of the program and the tests, with comments, strings and characters blanked out.
fn code() -> Vec<(String, String)> {
    let sources = tracked().into_iter().filter(|(name, _)| name.ends_with(".rs"));
    let code: Vec<_> = sources.map(|(name, source)| (name, blank(&source))).collect();
    assert!(code.iter().any(|(name, _)| name == "src/store/raw.rs") && code.len() > 40);
    code
}

/// The end of what begins at `at` and is no code, if that is so.
fn end_of_no_code(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let find =
        |from: usize, what: &[u8]| rest[from..].windows(what.len()).position(|part| part == what).map(|found| from + found);
    let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    let length = match rest {
        [b'/', b'/', ..] => find(0, b"\n").unwrap_or(rest.len()),
        [b'/', b'*', ..] => find(2, b"*/").map_or(rest.len(), |end| end + 2),
        [b'r', b'"' | b'#', ..] if !word_before || bytes[at - 1] == b'b' => {
            let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
            if rest.get(1 + hashes) != Some(&b'"') {
                return None;
            }
            let close = [&b"\""[..], &vec![b'#'; hashes]].concat();
            find(2 + hashes, &close).map_or(rest.len(), |end| end + close.len())
        }
        [quote @ (b'"' | b'\''), ..] => {
            // A lifetime has no second quote behind its first character.
            let first = std::str::from_utf8(&rest[1..rest.len().min(5)])
                .map_or_else(|err| String::from_utf8_lossy(&rest[1..1 + err.valid_up_to()]).into_owned(), str::to_owned);
            let width = first.chars().next().map_or(1, char::len_utf8);
            if *quote == b'\'' && rest.get(1) != Some(&b'\\') && rest.get(1 + width) != Some(&b'\'') {
                return None;
            }
            let mut end = 1;
            while end < rest.len() && rest[end] != *quote {
                end += if rest[end] == b'\\' { 2 } else { 1 };
            }
            end + 1
        }
        _ => return None,
    };
    Some((at + length).min(bytes.len()))
}

/// `source` with spaces for all that is no code; the lines stay.
fn blank(source: &str) -> String {
    let bytes = source.as_bytes();
    let (mut code, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let end = end_of_no_code(bytes, at);
        match end {
            Some(end) => code.extend(bytes[at..end].iter().map(|&byte| if byte == b'\n' { b'\n' } else { b' ' })),
            None => code.push(bytes[at]),
        }
        at = end.unwrap_or(at + 1);
    }
    String::from_utf8(code).expect("only ASCII was blanked by halves")
}

/// The identifiers of `code`, each with its place.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let starts_at = move |word: &str| word.as_ptr() as usize - code.as_ptr() as usize;
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .map(move |word| (starts_at(word), word))
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// The bytes of a function from its `fn` to its closing brace or semicolon.
fn function(code: &str) -> &str {
    let (mut brackets, mut braces) = (0i32, 0i32);
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            '{' => braces += 1,
            '}' => braces -= 1,
            _ => continue,
        }
        if (c == '}' && braces == 0 && brackets == 0) || braces < 0 {
            return &code[..=at];
        }
    }
    code
}

fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_file_is_too_long() {
    let ours = tracked().into_iter().filter(|(name, _)| name.starts_with("src/") || name.starts_with("tests/"));
    let long = ours.map(|(name, text)| (name, text.lines().count())).filter(|(_, lines)| *lines > FILE_LINES_MAX);
    assert_none(&long.map(|(name, lines)| format!("{name} has {lines} lines")).collect::<Vec<_>>());
}

#[test]
fn no_function_is_too_long() {
    let (mut seen, mut long) = (0, Vec::new());
    for (name, code) in code() {
        for (at, _) in words(&code).filter(|(_, word)| *word == "fn") {
            let rest = &code[at..];
            // The type of a function, or one without a body.
            let body = rest.find('{').unwrap_or(rest.len());
            if !rest[2..].trim_start().starts_with(|c: char| c.is_alphabetic() || c == '_') || has_no_body(&rest[..body]) {
                continue;
            }
            seen += 1;
            let lines = function(rest).lines().count();
            if lines > FUNCTION_LINES_MAX {
                long.push(format!("{name}:{}: a function of {lines} lines", line_of(&code, at)));
            }
        }
    }
    assert!(seen > 200, "only {seen} functions were found");
    assert_none(&long);
}

/// Whether a function's head ends in a semicolon: one outside of brackets, unlike that of `[u8; 4]`.
fn has_no_body(head: &str) -> bool {
    let mut depth = 0;
    head.chars().any(|c| {
        depth += i32::from("([".contains(c)) - i32::from(")]".contains(c));
        c == ';' && depth == 0
    })
}

#[test]
fn unsafe_is_in_one_file_only() {
    let mut files: Vec<_> = code().into_iter().filter(|(_, code)| words(code).any(|(_, word)| word == "unsafe")).collect();
    files.retain(|(name, _)| name != "src/store/raw.rs");
    assert_none(&files.into_iter().map(|(name, _)| format!("{name} has unsafe code")).collect::<Vec<_>>());
}

#[test]
fn only_the_store_knows_lmdb() {
    let mut found = Vec::new();
    for (name, code) in code().into_iter().filter(|(name, _)| name.starts_with("src/") && !name.starts_with("src/store/")) {
        let named =
            words(&code).filter(|&(at, word)| ["lmdb", "lmdb_sys"].contains(&word) && code[at + word.len()..].starts_with("::"));
        found.extend(named.map(|(at, word)| format!("{name}:{}: names {word}", line_of(&code, at))));
    }
    assert_none(&found);
}

/// What the sources under each path must not name: imports point down.
const LAYERS: [(&str, &[&str]); 11] = [
    ("src/json.rs", &["entry", "error", "heads", "ndjson", "store", "proto", "follow", "replicate", "fs", "thread", "net"]),
    ("src/entry.rs", &["heads", "ndjson", "store", "proto", "follow", "replicate", "fs", "thread", "net"]),
    ("src/error.rs", &["heads", "ndjson", "store", "proto", "follow", "replicate", "fs", "thread", "net"]),
    ("src/heads.rs", &["ndjson", "store", "proto", "follow", "replicate", "fs", "thread", "net", "io"]),
    ("src/ndjson.rs", &["store", "proto", "follow", "replicate", "fs", "thread", "net", "io"]),
    ("src/stage.rs", &["ndjson", "store", "proto", "follow", "replicate", "fs", "net"]),
    ("src/proto/", &["ndjson", "store", "follow", "replicate", "fs", "thread", "time", "net", "io", "process"]),
    ("src/store/", &["ndjson", "proto", "follow", "replicate"]),
    ("src/follow.rs", &["ndjson", "proto", "replicate"]),
    ("src/replicate.rs", &["ndjson", "cli"]),
    ("src/replicate/", &["ndjson", "cli"]),
];

/// Whether the word at `at` is part of a path or of an import, rather than the name of a method or a variable.
fn is_path(code: &str, at: usize, word: &str) -> bool {
    let (before, after) = (&code[..at], &code[at + word.len()..]);
    let statement = before.rsplit([';', '}']).find(|part| !part.trim().is_empty()).unwrap_or_default();
    before.ends_with("::") || after.starts_with("::") || statement.trim_start().starts_with("use ")
}

#[test]
fn imports_point_down() {
    let (code, mut found) = (code(), Vec::new());
    for (path, forbidden) in LAYERS {
        let under: Vec<_> = code.iter().filter(|(name, _)| name.starts_with(path)).collect();
        assert!(!under.is_empty(), "there is no {path}");
        for (name, code) in under {
            let named = words(code).filter(|&(at, word)| forbidden.contains(&word) && is_path(code, at, word));
            found.extend(named.map(|(at, word)| format!("{name}:{}: names {word}", line_of(code, at))));
        }
    }
    assert_none(&found);
}

#[test]
fn nothing_is_left_over() {
    // Put together here, so that this file has none of them.
    let marks = [["TO", "DO"], ["FIX", "ME"], ["db", "g!("], ["/wo", "rk/"], ["/ro", "ot/"]].map(|halves| halves.concat());
    let mut found = Vec::new();
    let places =
        ["src", "man", "tests", "scripts", "Cargo.toml", "Cargo.lock", "README.md", "CHANGELOG.md", "LICENSE", "rustfmt.toml"];
    for (name, text) in tracked() {
        let place = name.split('/').next().expect("a name");
        if !place.starts_with('.') && !places.contains(&place) {
            found.push(format!("{name}: not one of the places of this project"));
        }
        for (number, line) in (1..).zip(text.lines()) {
            let temporary = line.split("/tmp/h").skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            if temporary || marks.iter().any(|mark| line.contains(mark.as_str())) {
                found.push(format!("{name}:{number}: {line}"));
            }
        }
    }
    assert_none(&found);
}

#[test]
fn what_is_no_code_is_blanked() {
    let source = "a /* { */ \"}\\\"{\" '{' '\\'' <'a> r#\"\"{\"# // {\nb '\u{e9}' br\"{\" c\n";
    let code = blank(source);
    assert_eq!(words(&code).map(|(_, word)| word).collect::<Vec<_>>(), ["a", "a", "b", "b", "c"]);
    assert!(!code.contains(['{', '}']), "{code}");
    assert_eq!(code.lines().count(), 2);
    let import = "fn f() {}\nuse crate::{heads, store};\nself.store(); ";
    let paths: Vec<_> = words(import).map(|(at, word)| is_path(import, at, word) && word == "store").collect();
    assert_eq!(paths.iter().filter(|path| **path).count(), 1, "{paths:?}");
    assert_eq!(function("fn f(a: [u8; 4]) { if a { b } } fn g() {}"), "fn f(a: [u8; 4]) { if a { b } }");
}
