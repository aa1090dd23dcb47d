//! Rules of this repository that the compiler and clippy do not check.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The name and the content of every tracked text file, except lock files.
fn tracked() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = Command::new("git").arg("-C").arg(root).args(["ls-files", "-z"]).output();
    let listed = listed.unwrap_or_else(|err| panic!("git: {err} (scripts/test installs what the tests need)"));
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).expect("names are UTF-8");
    let names = names.split_terminator('\0').filter(|name| !name.ends_with("package-lock.json") && !name.ends_with("Cargo.lock"));
    // Files that are not UTF-8, or are deleted but still tracked, are skipped.
    names.filter_map(|name| fs::read_to_string(root.join(name)).ok().map(|text| (name.to_owned(), text))).collect()
}

/// The Rust sources of the program and the tests, with comments, strings and characters blanked out.
fn code() -> Vec<(String, String)> {
    let sources = tracked().into_iter().filter(|(name, _)| name.ends_with(".rs"));
    let code: Vec<_> = sources.map(|(name, source)| (name, blank(&source))).collect();
    assert!(code.iter().any(|(name, _)| name == "src/main.rs") && code.len() > 40);
    code
}

/// The end of the comment, string or character that begins at `at`, if one begins there.
fn end_of_non_code(bytes: &[u8], at: usize) -> Option<usize> {
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
            // A quote begins a character, not a lifetime, if a second quote follows the first character.
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

/// `source` with comments, strings and characters replaced by spaces. The lines stay.
fn blank(source: &str) -> String {
    let bytes = source.as_bytes();
    let (mut code, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let end = end_of_non_code(bytes, at);
        match end {
            Some(end) => code.extend(bytes[at..end].iter().map(|&byte| if byte == b'\n' { b'\n' } else { b' ' })),
            None => code.push(bytes[at]),
        }
        at = end.unwrap_or(at + 1);
    }
    String::from_utf8(code).expect("whole characters are replaced")
}

/// The identifiers of `code`, each with its position.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let starts_at = move |word: &str| word.as_ptr() as usize - code.as_ptr() as usize;
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .map(move |word| (starts_at(word), word))
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn only_the_store_imports_its_database() {
    let mut found = Vec::new();
    for (name, code) in code().into_iter().filter(|(name, _)| name.starts_with("src/") && !name.starts_with("src/store/")) {
        let forbidden = ["lmdb", "lmdb_sys", "memmap2"];
        let named = words(&code).filter(|&(at, word)| forbidden.contains(&word) && code[at + word.len()..].starts_with("::"));
        found.extend(named.map(|(at, word)| format!("{name}:{}: names {word}", line_of(&code, at))));
    }
    assert_none(&found);
}

/// The modules that the sources under each path must not import: imports point down.
const LAYERS: [(&str, &[&str]); 21] = [
    ("src/json.rs", &["model", "ndjson", "wire", "store", "ingest", "follow", "replicate", "cli", "fs", "thread", "net", "io"]),
    ("src/json/", &["model", "ndjson", "wire", "store", "ingest", "follow", "replicate", "cli", "fs", "thread", "net", "io"]),
    ("src/model/", &["ndjson", "wire", "store", "ingest", "follow", "replicate", "cli", "fs", "thread", "net"]),
    ("src/model/heads.rs", &["io"]),
    ("src/ndjson.rs", &["wire", "store", "ingest", "follow", "replicate", "cli", "fs", "thread", "net", "io"]),
    ("src/wire/", &["ndjson", "store", "ingest", "follow", "replicate", "cli", "fs", "thread", "time", "net", "io", "process"]),
    ("src/store/", &["ndjson", "wire", "ingest", "follow", "replicate", "cli"]),
    ("src/follow.rs", &["ndjson", "wire", "ingest", "replicate", "cli"]),
    ("src/ingest/", &["ndjson", "wire", "follow", "replicate", "cli"]),
    ("src/replicate/", &["ndjson", "cli"]),
    ("src/cli/exit.rs", &["args", "help", "context", "commands", "select", "child", "report", "io"]),
    ("src/cli/io/", &["args", "help", "context", "commands", "select", "input", "child", "report"]),
    ("src/cli/report/", &["args", "help", "context", "commands", "select", "input", "child"]),
    ("src/cli/child.rs", &["args", "help", "context", "commands", "select", "input", "retry"]),
    ("src/cli/program.rs", &["args", "help", "context", "commands", "select", "batches", "input", "child", "retry", "report"]),
    ("src/cli/batches.rs", &["args", "help", "context", "commands", "input", "child", "program", "retry"]),
    ("src/cli/retry.rs", &["args", "help", "context", "commands", "select", "input"]),
    ("src/cli/input.rs", &["args", "help", "context", "commands", "select", "child"]),
    ("src/cli/context.rs", &["args", "commands", "select", "child"]),
    ("src/cli/time.rs", &["args", "help", "context", "commands", "select", "input", "child", "report", "io"]),
    ("src/cli/select.rs", &["context", "commands", "child", "input"]),
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
        assert!(!under.is_empty(), "no source in {path}");
        for (name, code) in under {
            let named = words(code).filter(|&(at, word)| forbidden.contains(&word) && is_path(code, at, word));
            found.extend(named.map(|(at, word)| format!("{name}:{}: names {word}", line_of(code, at))));
        }
    }
    assert_none(&found);
}

#[test]
fn no_marks_temporary_paths_or_unexpected_files_are_left() {
    // The marks are composed, so that this file does not contain them.
    let marks = [["TO", "DO"], ["FIX", "ME"], ["db", "g!("], ["/wo", "rk/"], ["/ro", "ot/"]].map(|halves| halves.concat());
    let mut found = Vec::new();
    let places = [
        "src",
        "man",
        "tests",
        "scripts",
        "Cargo.toml",
        "Cargo.lock",
        "README.md",
        "CHANGELOG.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "rustfmt.toml",
    ];
    for (name, text) in tracked() {
        let place = name.split('/').next().expect("a name");
        if !place.starts_with('.') && !places.contains(&place) {
            found.push(format!("{name}: unexpected file or directory at the top level"));
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
fn comments_strings_and_characters_are_blanked() {
    let source = "a /* { */ \"}\\\"{\" '{' '\\'' <'a> r#\"\"{\"# // {\nb '\u{e9}' br\"{\" c\n";
    let code = blank(source);
    assert_eq!(words(&code).map(|(_, word)| word).collect::<Vec<_>>(), ["a", "a", "b", "b", "c"]);
    assert!(!code.contains(['{', '}']), "{code}");
    assert_eq!(code.lines().count(), 2);
    let import = "fn f() {}\nuse crate::{heads, store};\nself.store(); ";
    let paths: Vec<_> = words(import).map(|(at, word)| is_path(import, at, word) && word == "store").collect();
    assert_eq!(paths.iter().filter(|path| **path).count(), 1, "{paths:?}");
}
