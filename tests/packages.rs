//! The packages that scuttleup is built from: licenses, sources, the version of Rust, and the bill of materials of a release.

use std::collections::BTreeSet;
use std::fs::read_to_string;
use std::path::Path;

use serde_json::Value;

use crate::harness::Run;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The metadata of cargo about the packages for this kind of machine, also about those of the tests.
fn packages() -> Vec<Value> {
    let rustc = Run::program("rustc").args(["-vV"]).success();
    let host = rustc.lines().into_iter().find_map(|line| line.strip_prefix("host: ")).expect("a host").to_owned();
    let metadata = Run::program(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1", "--filter-platform", &host, "--manifest-path"])
        .args([root().join("Cargo.toml")])
        .success();
    let packages = metadata.json().remove(0)["packages"].as_array().expect("packages").clone();
    assert!(packages.len() > 40, "{} packages", packages.len());
    packages
}

fn text<'v>(package: &'v Value, field: &str) -> &'v str {
    package[field].as_str().unwrap_or_default()
}

/// The licenses that scripts/deny.toml allows.
fn allowed() -> Vec<String> {
    let rules = read_to_string(root().join("scripts/deny.toml")).expect("scripts/deny.toml");
    let (_, list) = rules.split_once("\nallow = [\n").expect("a list of licenses");
    let (list, _) = list.split_once("\n]").expect("its end");
    list.lines().map(|line| line.trim().trim_matches([',', '"']).to_owned()).collect()
}

/// Whether one alternative of a license expression consists of allowed licenses. Parentheses are not understood, so they are not allowed.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let expression = expression.replace('/', " OR ");
    expression
        .split(" OR ")
        .any(|alternative| alternative.split(" AND ").all(|license| allowed.iter().any(|allowed| allowed == license.trim())))
}

#[test]
fn every_package_has_an_allowed_license() {
    let allowed = allowed();
    assert!(allowed.iter().any(|license| license == "MIT"), "{allowed:?}");
    let packages = packages();
    let refused: Vec<_> = packages.iter().filter(|package| !is_allowed(text(package, "license"), &allowed)).collect();
    let refused: Vec<_> = refused.iter().map(|package| (text(package, "name"), text(package, "license"))).collect();
    assert!(refused.is_empty(), "not allowed by scripts/deny.toml: {refused:?}");
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("MIT AND BSD-3-Clause", true),
        ("GPL-2.0 AND MIT OR GPL-3.0", false),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
}

#[test]
fn every_package_comes_from_the_registry_of_cargo() {
    for package in packages() {
        let expected =
            if text(&package, "name") == "scuttleup" { "" } else { "registry+https://github.com/rust-lang/crates.io-index" };
        assert_eq!(text(&package, "source"), expected, "{}", text(&package, "name"));
    }
}

#[test]
fn no_package_needs_a_later_rust_than_scuttleup_says() {
    let version = |package: &Value| -> Vec<u32> {
        text(package, "rust_version")
            .split('.')
            .filter(|part| !part.is_empty())
            .map(|part| part.parse().expect("a number"))
            .collect()
    };
    let packages = packages();
    let own = packages.iter().find(|package| text(package, "name") == "scuttleup").map(version).expect("this package");
    assert_eq!(own.len(), 2, "{own:?}");
    let later: Vec<_> = packages.iter().filter(|package| version(package)[..] > [&own[..], &[u32::MAX]].concat()[..]).collect();
    let later: Vec<_> = later.iter().map(|package| (text(package, "name"), text(package, "rust_version"))).collect();
    assert!(later.is_empty(), "{later:?}");
    for page in ["README.md", "CONTRIBUTING.md"] {
        let needed = format!("Rust {}.{} or later", own[0], own[1]);
        assert!(read_to_string(root().join(page)).expect("a page").contains(&needed), "{page} does not say {needed}");
    }
}

#[test]
fn the_bill_of_materials_lists_each_package_once_and_is_always_the_same() {
    let print = || Run::program(root().join("scripts/bill-of-materials")).env("SOURCE_DATE_EPOCH", "86400").success();
    let printed = print();
    assert_eq!(printed.stdout, print().stdout);
    let bill: Value = serde_json::from_slice(&printed.stdout).expect("JSON");
    assert_eq!(bill["metadata"]["timestamp"], "1970-01-02T00:00:00Z");
    let parts: Vec<&Value> = bill["components"].as_array().expect("components").iter().collect();
    let names: BTreeSet<_> = parts.iter().map(|part| (text(part, "name"), text(part, "version"))).collect();
    assert_eq!(names.len(), parts.len());
    // Cargo prints one line for each package, with its version, and repeats none.
    let tree =
        ["tree", "--locked", "--edges", "normal,build", "--prefix", "none", "--no-dedupe", "--format", "{p}", "--manifest-path"];
    let tree = Run::program(env!("CARGO")).args(tree).args([root().join("Cargo.toml")]).success();
    let built = tree.lines().into_iter().map(|line| {
        let mut words = line.split(' ');
        (words.next().expect("a name"), words.next().expect("a version").trim_start_matches('v'))
    });
    let built: BTreeSet<_> = built.filter(|(name, _)| *name != "scuttleup").collect();
    let is_package = |part: &&Value| text(part, "purl").starts_with("pkg:cargo/");
    let of_cargo = parts.iter().copied().filter(is_package).map(|part| (text(part, "name"), text(part, "version")));
    assert_eq!(of_cargo.collect::<BTreeSet<_>>(), built);
    for part in parts {
        assert!(!text(&part["licenses"][0], "expression").is_empty(), "{part}");
        assert_eq!(text(&part["hashes"][0], "content").len(), if is_package(&part) { 64 } else { 0 }, "{part}");
    }
    for name in ["lmdb", "zstd", "rust-std", "glibc"] {
        assert!(names.iter().any(|(found, version)| *found == name && version.contains('.')), "{name}");
    }
}
