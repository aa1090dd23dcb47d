//! The pictures of README.md, and the scripts that draw them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Place, Run, SCUTTLEUP, append};

fn script(name: &str) -> Run {
    Run::program(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)).env("SCUTTLEUP", SCUTTLEUP)
}

/// The change lines of a log with their times, in a file with the name of the log.
fn arrivals(place: &Place, log: &Path) -> PathBuf {
    let lines = Run::new(log).args(["read", "--at", "--no-entry"]).success().stdout;
    place.file(&format!("{}.ndjson", log.file_name().and_then(OsStr::to_str).expect("a name")), lines)
}

#[test]
fn the_picture_of_two_terminals_shows_what_the_program_prints() {
    let shown = script("picture").args(["--check"]).success();
    assert!(shown.lines().contains(&"thislogandserverareequal:2feeds"), "{}", shown.text());
}

#[test]
fn the_pictures_are_small_and_contain_no_script() {
    let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/pictures");
    for (name, kilobytes) in [("terminals.svg", 60), ("outage.svg", 120)] {
        let picture = fs::read_to_string(pictures.join(name)).expect("a picture");
        assert!(picture.len() < kilobytes << 10, "{name}: {} bytes", picture.len());
        assert!(picture.ends_with("</svg>\n") || picture.ends_with("</svg>\n\n"), "{name}");
        assert!(!picture.contains("<script") && !picture.contains("javascript"), "{name}");
    }
}

#[test]
fn plot_draws_each_feed_and_each_delay_between_two_logs() {
    let place = Place::new();
    let (a, b) = (place.log("berlin"), place.log("tokyo"));
    append(&a, "1\n2\n3\n");
    append(&b, "1\n");
    let files = [arrivals(&place, &a), {
        Run::new(&b).args(["-q", "replicate", "--once", "--", SCUTTLEUP, "-q", "--log"]).args([&a]).args(["replicate"]).success();
        arrivals(&place, &b)
    }];
    let alone = script("plot").args(&files[..1]).success();
    assert!(alone.text().contains(">berlin<") && !alone.text().contains(">tokyo<"), "{}", alone.text());
    let both = script("plot").args(&files).success();
    // Once as a feed, and once as a log.
    assert!(both.text().contains(">tokyo<"), "{}", both.text());
    // Entries that arrive in the same moment are one point; the legend has one more.
    assert!(both.text().matches(" scale(").count() >= 2, "{}", both.text());
    let png = script("plot").args(["--png"]).args(&files).success();
    assert!(png.stdout.starts_with(b"\x89PNG\r\n"));
    // Lines without a time, and a log without entries of the other one.
    let lines = place.file("lines", Run::new(&a).args(["read"]).success().stdout);
    script("plot").args([&lines]).stderr_has("line 1 is not a change line with a time: print it with").status(1);
    let other = place.log("other");
    append(&other, "1\n");
    let other = arrivals(&place, &other);
    script("plot").args([&files[0], &other]).stderr_has("other: no entry of berlin arrived there later").status(1);
}

#[test]
fn an_outage_is_recorded_and_ends_with_equal_logs() {
    let place = Place::new();
    script("outage").args([OsStr::new("3"), place.path("").as_os_str()]).success();
    let counts = ["server", "laptop", "phone"].map(|log| {
        let lines = fs::read_to_string(place.path(&format!("{log}.ndjson"))).expect("the change lines");
        lines.lines().count()
    });
    assert!(counts[0] > 3 && counts[1..] == [counts[0]; 2], "{counts:?}");
    let picture = fs::read_to_string(place.path("outage.svg")).expect("a picture");
    assert!(["server", "laptop", "phone"].iter().all(|name| picture.contains(&format!(">{name}<"))), "{picture}");
}
