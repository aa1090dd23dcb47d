//! `read` and `watch` by feed, time and number: what is found is what a look at every entry finds.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use scuttleup::ndjson::put_time;
use scuttleup::{Bounds, EntryFilter, FeedMap, Log, Offset};
use serde_json::Value;

use crate::harness::{Place, Run, append, shell};
use crate::hostile::Random;
use crate::verify::change;

/// `count` change lines of peers that `peer_of` gives by the number of the line. `heads` are the seqs so far.
fn lines(heads: &mut BTreeMap<String, u32>, count: usize, mut peer_of: impl FnMut(usize) -> String) -> String {
    let line = |n| {
        let peer = peer_of(n);
        let seq = heads.entry(peer.clone()).or_default();
        *seq += 1;
        format!("{{\"peer\":\"{peer}\",\"seq\":{seq},\"entry\":{{\"n\":{n},\"pad\":\"{}\"}}}}\n", "x".repeat(n % 90))
    };
    (0..count).map(line).collect()
}

fn write(log: &Path, lines: String) {
    Run::new(log).args(["-q", "write"]).stdin(lines).success();
}

/// The lines of `read` with these options, without those of floors.
fn read(log: &Path, options: &[String]) -> Vec<Value> {
    let printed = Run::new(log).args(["-q", "read", "--at"]).args(options).success().json();
    printed.into_iter().filter(|line| line["floor"] != true).collect()
}

fn offset_of(line: &Value) -> u64 {
    line["offset"].as_u64().expect("an offset")
}

fn seq_of(line: &Value) -> u64 {
    line["seq"].as_u64().expect("a seq")
}

/// Options, and what they select.
#[derive(Default)]
struct Query {
    options: Vec<String>,
    peers: Vec<String>,
    after: u64,
    heads: BTreeMap<String, u64>,
    since: Option<String>,
    until: Option<String>,
    last: Option<usize>,
    limit: Option<usize>,
    reverse: bool,
}

impl Query {
    /// Options for some of `all`, the lines of the log. Each bit of `kinds` is a kind of option.
    fn random(kinds: usize, random: &mut Random, all: &[Value], heads_file: &Path) -> Self {
        let mut query = Self { reverse: kinds & 128 > 0, ..Self::default() };
        let mut add = |name: &str, value: String| query.options.extend([name.to_owned(), value]);
        let some = |random: &mut Random| &all[random.below(all.len())];
        if kinds & 1 > 0 {
            let sets: [&[&str]; 8] = [
                &["rare-3"],
                &["rare-*"],
                &["bulk-0"],
                &["rare-1?", "bulk-1"],
                &["nobody"],
                &["rare-2", "local"],
                &["*"],
                &["[r]are-[0-4]", "none-*"],
            ];
            query.peers = sets[random.below(sets.len())].iter().map(|peer| (*peer).to_owned()).collect();
            query.peers.iter().for_each(|peer| add("--peer", peer.clone()));
        }
        if kinds & 2 > 0 {
            query.after = offset_of(some(random));
            add("--after", query.after.to_string());
        }
        if kinds & 4 > 0 {
            // Near the end of some feeds, and at the start of the others.
            let mut last = BTreeMap::new();
            last.extend(all.iter().map(|line| (line["peer"].as_str().expect("a peer").to_owned(), seq_of(line))));
            let known = last.into_iter().filter(|_| random.below(4) > 0).collect::<Vec<_>>();
            query.heads = known.into_iter().map(|(peer, seq)| (peer, seq.saturating_sub(random.below(6) as u64))).collect();
            let line = |(peer, seq): (&String, &u64)| format!("{{\"peer\":\"{peer}\",\"seq\":{seq}}}\n");
            std::fs::write(heads_file, query.heads.iter().map(line).collect::<String>()).expect("a file of heads");
            add("--since-heads", heads_file.to_str().expect("UTF-8").to_owned());
        }
        let time = |random: &mut Random| some(random)["at"].as_str().expect("a time").to_owned();
        if kinds & 8 > 0 {
            query.since = Some(time(random));
            add("--since", query.since.clone().expect("just set"));
        }
        if kinds & 16 > 0 {
            query.until = Some(time(random));
            add("--until", query.until.clone().expect("just set"));
        }
        if kinds & 32 > 0 {
            query.last = Some([0, 1, 7, 900, 100_000][random.below(5)]);
            add("-n", query.last.expect("just set").to_string());
        }
        if kinds & 64 > 0 {
            query.limit = Some([0, 1, 5, 1300][random.below(4)]);
            add("--limit", query.limit.expect("just set").to_string());
        }
        query.options.extend(query.reverse.then(|| "--reverse".to_owned()));
        query
    }

    /// The lines of `all` that the options select, by a look at each of them.
    fn select(&self, all: &[Value]) -> Vec<Value> {
        let is_selected = |line: &&Value| {
            let (peer, at) = (line["peer"].as_str().expect("a peer"), line["at"].as_str().expect("a time"));
            let has_feed = self.peers.is_empty() || self.peers.iter().any(|glob| matches(glob, peer));
            has_feed
                && offset_of(line) > self.after
                && seq_of(line) > self.heads.get(peer).copied().unwrap_or(0)
                && self.since.as_ref().is_none_or(|since| at >= since.as_str())
                && self.until.as_ref().is_none_or(|until| at < until.as_str())
        };
        let mut selected: Vec<_> = all.iter().filter(is_selected).cloned().collect();
        selected.drain(..selected.len() - self.last.unwrap_or(usize::MAX).min(selected.len()));
        if self.reverse {
            selected.reverse();
        }
        selected.truncate(self.limit.unwrap_or(usize::MAX));
        selected
    }
}

/// Whether a pattern of these tests matches.
fn matches(glob: &str, peer: &str) -> bool {
    match glob {
        "[r]are-[0-4]" => matches!(peer, "rare-0" | "rare-1" | "rare-2" | "rare-3" | "rare-4"),
        "rare-1?" => peer.len() == 7 && peer.starts_with("rare-1"),
        _ => glob.strip_suffix('*').map_or(glob == peer, |start| peer.starts_with(start)),
    }
}

/// A random peer: one of three with most entries, or one of twenty with few.
fn some_peer(random: &mut Random) -> String {
    match random.below(100) {
        0 => format!("rare-{}", random.below(20)),
        1 => "local".into(),
        _ => format!("bulk-{}", random.below(3)),
    }
}

/// Adds entries in several commits: interleaved, and in runs of one feed.
fn grow(log: &Path, heads: &mut BTreeMap<String, u32>, random: &mut Random) {
    for _ in 0..4 {
        let count = 1 + random.below(2000);
        let (mut peer, mut left) = (some_peer(random), 0);
        let next = |_| {
            if left == 0 {
                (peer, left) = (some_peer(random), if random.below(9) == 0 { random.below(1500) } else { random.below(3) });
            } else {
                left -= 1;
            }
            peer.clone()
        };
        write(log, lines(heads, count, next));
    }
}

fn delete_some(log: &Path, all: &[Value], random: &mut Random) {
    for _ in 0..12 {
        let line = &all[random.below(all.len())];
        let (peer, seq) = (line["peer"].as_str().expect("a peer"), line["seq"].to_string());
        Run::new(log).args(["del", peer, &seq]).success();
    }
}

#[test]
fn every_combination_of_options_finds_what_a_look_at_every_entry_finds() {
    let seed = std::env::var("SCUTTLEUP_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_nanos() as u64);
    println!("SCUTTLEUP_SEED={seed}");
    let (place, mut random, mut heads) = (Place::new(), Random(seed), BTreeMap::new());
    let (log, heads_file) = (place.log("own"), place.path("heads"));
    type Stage<'a> = &'a dyn Fn(&[Value], &mut Random);
    let stages: [Stage<'_>; 4] = [
        &|_, _| {},
        // Packs, and entries that are deleted before and after they are sealed.
        &|all, random| {
            delete_some(&log, all, random);
            Run::new(&log).args(["-q", "compact"]).success();
            delete_some(&log, all, random);
        },
        // The newest entries are in data.mdb, the others in packs.
        &|_, _| {},
        &|all, random| {
            let keep = (all.len() / 2 + random.below(all.len() / 3)).to_string();
            Run::new(&log).args(["-q", "prune", "--keep-last", &keep]).success();
        },
    ];
    for (number, stage) in stages.iter().enumerate() {
        if number % 2 == 0 {
            grow(&log, &mut heads, &mut random);
            Run::new(&log).args(["-q", "append"]).stdin("1\n2\n").success();
        }
        stage(&read(&log, &[]), &mut random);
        let all = read(&log, &[]);
        for kinds in (0..256).filter(|kinds| (kinds + number) % 2 == 0 || number == 3) {
            let query = Query::random(kinds, &mut random, &all, &heads_file);
            let (expected, options) = (query.select(&all), query.options.join(" "));
            let found = read(&log, &query.options);
            let differs = expected.iter().zip(&found).find(|(one, other)| one != other);
            assert!(
                differs.is_none() && expected.len() == found.len(),
                "SCUTTLEUP_SEED={seed}, stage {number}, {options}: {} lines in place of {}, {differs:?}",
                found.len(),
                expected.len()
            );
            // A live reader ends at --until, or after --limit entries.
            let ends = query.until.is_some() || query.limit.is_some_and(|limit| limit <= expected.len());
            if ends && !query.reverse {
                let live = read(&log, &[&query.options[..], &["--live".into()]].concat());
                assert!(live == expected, "SCUTTLEUP_SEED={seed}, stage {number}, {options} --live: {} lines", live.len());
            }
        }
    }
}

#[test]
fn a_finder_goes_on_while_the_log_grows_is_packed_and_is_pruned() {
    let place = Place::new();
    let (path, mut heads) = (place.log("own"), BTreeMap::new());
    let peer = |n| if n % 40 == 7 { format!("rare-{}", n % 3) } else { format!("bulk-{}", n % 2) };
    write(&path, lines(&mut heads, 20_000, peer));
    let log = Log::open_read_only(&path).expect("a log");
    let filter = EntryFilter::new(["rare-*"], FeedMap::default()).expect("a filter");
    let (mut finder, mut back) = (log.find(filter.clone(), true), log.find(filter, true));
    let until = log.last_offset().expect("an offset");
    let wanted: Vec<_> = (0..20_000).filter(|n| n % 40 == 7).map(|n| n + 1).collect();
    let (mut given, mut gone, mut position) = (Vec::new(), 0..=0, Offset(300));
    let mut from_end = back.backwards(Offset(300), until).expect("a position");
    let (mut given_back, mut has_more) = (Vec::new(), true);
    let bounds = Bounds { entries_max: 9, bytes_max: usize::MAX };
    for round in 0.. {
        match round {
            // 3: this process uses data.mdb, so it is not made smaller.
            2 | 8 | 13 => shell("$scuttleup -q --log \"$LOG\" compact || [ $? = 3 ]").env("LOG", &path).success(),
            4 => Run::new(&path).args(["del", "rare-1", "30"]).success(),
            6 => Run::new(&path).args(["-q", "append"]).stdin("1\n").success(),
            // The packs that hold the next entries are gone.
            12 => Run::new(&path).args(["-q", "prune", "--keep-last", "9001"]).success(),
            _ => Run::program("true").success(),
        };
        let before = position;
        position = finder
            .scan(position, until, bounds, |change, at| {
                assert!(change.offset > before && at.is_some());
                given.push(change.offset.0);
                Ok(ControlFlow::Continue(()))
            })
            .expect("changes");
        assert!(given.last().is_none_or(|last| *last <= position.0));
        if finder.take_skipped() > 0 {
            assert_eq!((position, gone), (Offset(11_000), 0..=0));
            gone = before.0 + 1..=position.0;
        }
        if has_more {
            has_more = back
                .scan_back(&mut from_end, bounds, |change, _| {
                    given_back.push(change.offset.0);
                    Ok(ControlFlow::Continue(()))
                })
                .expect("changes");
        }
        if position == before && !has_more {
            break;
        }
    }
    assert_eq!(position, until);
    assert!(gone.contains(&5000), "{gone:?}");
    let expected: Vec<_> = wanted.iter().copied().filter(|offset| *offset > 300 && !gone.contains(offset)).collect();
    assert_eq!(given, expected);
    let expected: Vec<_> = wanted.iter().rev().copied().filter(|offset| *offset > 11_000).collect();
    assert_eq!(given_back, expected);
}

/// A log in which one feed has 10 of 20,000 entries.
fn with_a_rare_feed(place: &Place) -> PathBuf {
    let log = place.log("own");
    let peer = |n| if n % 2000 == 700 { "rare".to_owned() } else { format!("bulk-{}", n % 7) };
    write(&log, lines(&mut BTreeMap::new(), 20_000, peer));
    log
}

#[test]
fn a_feed_is_found_without_a_look_at_the_entries_of_others() {
    let place = Place::new();
    let log = with_a_rare_feed(&place);
    let expected = Run::new(&log).args(["read", "--peer", "rare"]).success().text().to_owned();
    assert_eq!(expected.lines().count(), 10);
    // The damage is in another feed.
    change(&log, "entries", &5000_u64.to_ne_bytes(), |record| {
        let mut record = record.expect("a record").to_vec();
        *record.last_mut().expect("a byte") ^= 1;
        Some(record)
    });
    Run::new(&log).args(["read"]).stderr_has("offset 5000").status(1);
    for options in [&["--peer", "rare"][..], &["--peer", "ra[r]e"], &["--peer", "rare", "--live", "--limit", "10"]] {
        Run::new(&log).args(["read"]).args(options).stdout(&expected).success();
    }
    let reversed: String = expected.lines().rev().map(|line| format!("{line}\n")).collect();
    Run::new(&log).args(["read", "--peer", "rare", "--reverse"]).stdout(reversed).success();
    let last = expected.lines().skip(4).map(|line| format!("{line}\n")).collect::<String>();
    Run::new(&log).args(["read", "--peer", "rare", "-n", "6"]).stdout(last).success();
}

#[test]
fn a_wrong_index_of_runs_is_damage_and_prints_no_entry_of_another_feed() {
    let place = Place::new();
    let log = with_a_rare_feed(&place);
    let rare = Run::new(&log).args(["read", "--peer", "rare", "-n", "1"]).success().json()[0].clone();
    let number = {
        let heads = Run::new(&log).args(["heads"]).success().json();
        // The bulk feeds were seen first.
        heads.iter().filter(|line| line["peer"].as_str().is_some_and(|peer| peer.starts_with("bulk-"))).count() as u32
    };
    let key = [number.to_be_bytes(), (seq_of(&rare) as u32).to_be_bytes()].concat();
    change(&log, "runs", &key, |run| {
        let mut run = run.expect("the run").to_vec();
        run[..8].copy_from_slice(&(offset_of(&rare) + 1).to_le_bytes());
        Some(run)
    });
    for options in [&[][..], &["--reverse"]] {
        let read = Run::new(&log).args(["read", "--peer", "rare"]).args(options);
        let printed = read.stderr_has("the index of runs does not have entry").status(1);
        assert!(printed.json().iter().all(|line| line["peer"] == "rare"));
    }
}

#[test]
fn a_new_feed_that_matches_is_followed() {
    let place = Place::new();
    let log = place.log("own");
    append(&log, "0\n");
    let mut watching = Run::new(&log).args(["watch", "--peer", "web-*", "--no-entry", "--limit", "3"]).spawn();
    let mut heads = BTreeMap::new();
    for (count, peers) in [(2, ["db", "web-1"]), (2, ["web-2", "x"]), (2, ["own", "web-1"])] {
        write(&log, lines(&mut heads, count, |n| peers[n].replace("own", "other")));
        let line = watching.line();
        let peer = peers.iter().find(|peer| peer.starts_with("web")).expect("one");
        assert!(line.contains(&format!("\"peer\":\"{peer}\"")), "{line}");
    }
    assert_eq!(watching.wait().status.code(), Some(0));
}

#[test]
fn a_pattern_without_a_feed_is_reported_and_a_bad_one_is_refused() {
    let place = Place::new();
    let log = place.log("own");
    let said = "scuttleup: no feed of this log matches web-*: `scuttleup heads` prints all feeds\n";
    Run::new(&log).args(["read", "--peer", "web-*"]).stdout("").stderr(said).success();
    Run::new(&log).args(["-q", "read", "--peer", "web-*"]).stdout("").stderr("").success();
    Run::new(&log).args(["read", "--peer", "o*"]).stdout("").stderr("").success();
    write(&log, lines(&mut BTreeMap::new(), 1, |_| "web-1".into()));
    Run::new(&log).args(["read", "--peer", "web-*"]).stderr("").success();
    Run::new(&log).args(["read", "--peer", "web-[1"]).stderr_has("invalid pattern web-[1 ").status(2);
    // An id with such characters is also found by itself.
    write(&log, lines(&mut BTreeMap::new(), 1, |_| "x[1]".into()));
    assert_eq!(Run::new(&log).args(["read", "--peer", "x[1]"]).success().lines().len(), 1);
}

#[test]
fn options_that_exclude_each_other_are_refused() {
    let place = Place::new();
    let log = place.log("own");
    for options in [&["read", "--reverse", "--live"][..], &["read", "--reverse", "-f"], &["read", "--tail", "--reverse"]] {
        Run::new(&log).args(options).stdout("").stderr_has("cannot be used with").status(2);
    }
    Run::new(&log).args(["watch", "--reverse"]).stdout("").stderr_has("unexpected argument '--reverse'").status(2);
    for time in ["tomorrow-ish", "1h", "25:00", "--tail"] {
        Run::new(&log).args(["read", "--since", time]).stdout("").stderr_has("not a time").status(2);
    }
    for good in ["-1h", "2 days ago", "yesterday", "2026-11-26", "09:30", "2026-11-26T09:30:00Z", "now"] {
        // In the morning, a time of the day is in the future.
        Run::new(&log).args(["-q", "read", "--since", good, "--until", good]).stdout("").stderr("").success();
    }
    Run::new(&log).args(["read", "--tail", "--since", "-1h", "--until", "now"]).stderr_has("--since cannot select any").success();
}

/// A time so many milliseconds from now, as RFC 3339.
fn after_now(millis: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time") + Duration::from_millis(millis);
    let mut text = Vec::new();
    put_time(&mut text, now.as_millis() as u64);
    String::from_utf8(text).expect("ASCII")
}

#[test]
fn a_live_reader_ends_at_its_time() {
    let place = Place::new();
    let log = place.log("own");
    append(&log, "1\n");
    let until = after_now(1500);
    let mut reading = Run::new(&log).args(["read", "--live", "--no-entry", "--until", &until]).spawn();
    assert!(reading.line().contains("\"offset\":1"));
    append(&log, "2\n");
    assert!(reading.line().contains("\"offset\":2"));
    assert_eq!(reading.wait().status.code(), Some(0));
    assert!(after_now(0) >= until);
}

/// Sets the stored times of the commits that begin at these offsets.
fn set_times(log: &Path, times: &[(u64, u64)]) {
    for &(first, millis) in times {
        change(log, "times", &first.to_ne_bytes(), |_| Some(millis.to_le_bytes().to_vec()));
    }
}

/// The row of `meta` that says whether times decrease.
fn order_of_times(log: &Path) -> Option<Vec<u8>> {
    let mut found = None;
    change(log, "meta", b"times", |value| {
        found = value.map(<[u8]>::to_vec);
        Some(value.unwrap_or(&[1]).to_vec())
    });
    found
}

fn at(log: &Path) -> Vec<String> {
    let lines = Run::new(log).args(["read", "--at"]).success().json();
    lines.iter().map(|line| line["at"].as_str().expect("a time").to_owned()).collect()
}

fn found(log: &Path, options: &[&str]) -> Vec<u64> {
    Run::new(log).args(["read"]).args(options).success().json().iter().map(offset_of).collect()
}

/// 2100-01-01 in Unix milliseconds.
const FUTURE: u64 = 4_102_444_800_000;

#[test]
fn the_time_of_an_entry_is_never_before_that_of_the_entry_before_it() {
    let place = Place::new();
    let log = place.log("own");
    let before = after_now(0);
    append(&log, "1\n");
    let first = at(&log);
    assert!(before <= first[0] && first[0] <= after_now(0), "{first:?}");
    // As if the clock were set back after the first entry.
    set_times(&log, &[(1, FUTURE)]);
    append(&log, "2\n3\n");
    let line = Run::new(&log).args(["read", "--at", "--no-entry", "-n", "1"]).success().text().to_owned();
    assert_eq!(line, "{\"offset\":3,\"peer\":\"own\",\"seq\":3,\"at\":\"2100-01-01T00:00:00.000Z\"}\n");
    assert_eq!(at(&log), ["2100-01-01T00:00:00.000Z"; 3]);
    assert_eq!(found(&log, &["--since", "2100-01-01T00:00:00Z"]), [1, 2, 3]);
    assert_eq!(found(&log, &["--since", "2100-01-01T00:00:00.001Z"]), [0; 0]);
    assert_eq!(found(&log, &["--until", "2100-01-01T00:00:00Z"]), [0; 0]);
    assert_eq!(order_of_times(&log), Some(vec![1]));
    Run::new(&log).args(["verify"]).success();
    // `write` takes a line with a time, and its own log gives its own time.
    let copy = place.path("copy");
    let lines = Run::new(&log).args(["read", "--at"]).success().text().to_owned();
    Run::new(&copy).args(["-q", "write"]).stdin(lines).success();
    assert!(at(&copy).iter().all(|at| at.as_str() < "2100"));
}

#[test]
fn in_times_of_earlier_builds_that_decrease_the_highest_so_far_counts() {
    let place = Place::new();
    for (times, order, since_15, since_25, since_35) in [
        ([10, 20, 30, 40], 1, 2, 3, 4),
        ([10, 30, 20, 40], 0, 2, 2, 4),
        ([40, 10, 20, 30], 0, 1, 1, 1),
        ([20, 10, 10, 10], 0, 1, 6, 6),
    ] {
        let log = place.log(&format!("log-{times:?}"));
        (1..=4).for_each(|n| append(&log, format!("{n}\n")));
        set_times(&log, &[1, 2, 3, 4].map(|first| (first, times[first as usize - 1])));
        change(&log, "meta", b"times", |_| None);
        let first = |millis: u64| {
            let time = format!("1970-01-01T00:00:00.0{millis}Z");
            let (since, until) = (found(&log, &["--since", &time]), found(&log, &["--until", &time]));
            let last = Run::new(&log).args(["info"]).success().json()[0]["last_offset"].as_u64().expect("an offset");
            let first = since.first().copied().unwrap_or(last + 1);
            assert_eq!([until, since].concat(), (1..=last).collect::<Vec<_>>());
            first
        };
        let before = [15, 25, 35].map(first);
        Run::new(&log).args(["verify"]).success();
        // The next commit notes whether the times decrease. Its own time is that of the clock.
        append(&log, "5\n");
        assert_eq!(order_of_times(&log), Some(vec![order]), "{times:?}");
        let last_time = at(&log).pop().expect("a line");
        assert!(last_time.as_str() > "2020", "{last_time}");
        let expected = [since_15, since_25, since_35].map(|first| first.min(5));
        assert_eq!((before, [15, 25, 35].map(first)), (expected, expected), "{times:?}");
        Run::new(&log).args(["verify"]).success();
    }
}

#[test]
fn times_stay_in_packs_and_above_the_floor() {
    let place = Place::new();
    let log = place.log("own");
    (1..=20).for_each(|n| append(&log, format!("{n}\n{n}\n")));
    let before = at(&log);
    Run::new(&log).args(["-q", "compact"]).success();
    assert_eq!(at(&log), before);
    Run::new(&log).args(["-q", "prune", "--keep-last", "11"]).success();
    Run::new(&log).args(["-q", "compact"]).success();
    let lines = Run::new(&log).args(["read", "--at"]).success().json();
    let times: Vec<_> = lines.iter().filter_map(|line| line["at"].as_str()).collect();
    assert_eq!(times, before[29..]);
    // Nothing was pruned that this time selects: there is no message.
    Run::new(&log).args(["read", "--since", &before[35]]).stderr("").success();
    assert_eq!(read(&log, &["--since".into(), before[0].clone()]).len(), 11);
    Run::new(&log).args(["verify"]).success();
}

#[test]
fn the_newest_entries_first_have_no_floors_and_limit_counts_no_floors() {
    let place = Place::new();
    let log = place.log("own");
    append(&log, (1..=9).map(|n| format!("{n}\n")).collect::<String>());
    Run::new(&log).args(["-q", "prune", "--keep-last", "3"]).success();
    let kinds = |options: &[&str]| -> Vec<String> {
        let lines = Run::new(&log).args(["-q", "read"]).args(options).success().json();
        lines.iter().map(|line| if line["floor"] == true { "floor".into() } else { line["entry"].to_string() }).collect()
    };
    assert_eq!(kinds(&[]), ["floor", "7", "8", "9"]);
    assert_eq!(kinds(&["--limit", "2"]), ["floor", "7", "8"]);
    assert_eq!(kinds(&["--limit", "0"]), [""; 0]);
    assert_eq!(kinds(&["--reverse"]), ["9", "8", "7"]);
    assert_eq!(kinds(&["--reverse", "-n", "2"]), ["9", "8"]);
    assert_eq!(kinds(&["--since", "-1h"]), ["floor", "7", "8", "9"]);
    let said = "scuttleup: 5 entries were pruned before they were read: continuing after offset 6\n";
    Run::new(&log).args(["read", "--reverse", "--after", "1"]).stderr(said).success();
}
