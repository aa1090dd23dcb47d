//! A session of two equal logs takes only a few bytes.

use serde_json::Value;

use crate::harness::{Place, append, assert_equal};

use super::{mixed, number, once, write};

/// Neither log sent or received an entry, and the session took less than 1 KB in total.
fn assert_small(reports: &(Value, Value)) {
    let (a, b) = reports;
    assert_eq!([a, b].map(|report| number(report, "sent") + number(report, "received")), [0, 0], "{a} {b}");
    assert!(number(a, "bytes_sent") + number(a, "bytes_received") < 1000, "{a} {b}");
}

#[test]
fn one_feed() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    assert_small(&once(&a, &b, (0, 0)));
    append(&a, "1\n2\n");
    once(&a, &b, (0, 0));
    assert_small(&once(&a, &b, (0, 0)));
    assert_small(&once(&b, &a, (0, 0)));
}

#[test]
fn a_hundred_thousand_feeds() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    let line = |n: u32| format!("{{\"peer\":\"feed number {n}\",\"seq\":1,\"entry\":{n}}}\n");
    write(&a, &(0..100_000).map(line).collect::<String>());
    write(&b, &(0..100_000).rev().map(line).collect::<String>());
    assert_equal(&a, &b);
    assert_small(&once(&a, &b, (0, 0)));
    // One new entry is found among all feeds, in a session that sends all heads.
    append(&a, "1\n");
    let (report_a, report_b) = once(&a, &b, (0, 0));
    assert_eq!((number(&report_a, "sent"), number(&report_b, "sent")), (1, 0));
    assert_small(&once(&a, &b, (0, 0)));
}

#[test]
fn the_same_entries_in_another_order() {
    let place = Place::new();
    let (a, b, c) = (place.log("a"), place.log("b"), place.log("c"));
    let (ours, theirs) = (mixed("p", 5, 3000, 10), mixed("q", 4, 2000, 10));
    write(&a, &(ours.clone() + &theirs));
    write(&b, &(theirs + &ours));
    assert_small(&once(&a, &b, (0, 0)));
    // The same through a third log.
    once(&b, &c, (0, 0));
    assert_small(&once(&c, &a, (0, 0)));
}
