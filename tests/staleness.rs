//! The order of sending when not all can be sent: the experiment of van Renesse, Dumitriu, Gough and Thomas (Efficient
//! Reconciliation and Flow Control for Anti-Entropy Protocols, 2008) with feeds, in virtual time.
//!
//! The curves are written as NDJSON, a chart of them as SVG, to `$SCUTTLEUP_STALENESS_DIR` or below Cargo's own directory.

mod chart;
mod exchange;
mod gossip;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use self::chart::{Chart, Line};
use self::gossip::{Order, Staleness, World};
use crate::harness::{Place, Run, SCUTTLEUP};
use crate::hostile::Random;

const ORDERS: [(Order, &str); 3] =
    [(Order::OldestFirst, "oldest-first"), (Order::MostMissingFirst, "most-missing-first"), (Order::FeedByFeed, "feed-by-feed")];
const SEEDS: Range<u64> = 1..4;
const SECONDS: usize = 200;
/// Each log appends one entry a second, and two in these.
const DOUBLE: Range<usize> = 25..75;

/// The entries that one side may send in an exchange. A log is in two exchanges a second on the average, and there is a
/// new entry of each log a second: normal load is 2/3 of what can be carried, double load 4/3.
const fn limit(logs: usize) -> usize {
    logs * 3 / 4
}

/// One order's run, the mean of all seeds.
struct Curve {
    name: &'static str,
    /// At the end of each second.
    seconds: Vec<Staleness>,
    /// The highest of each seed's run. One seed's depends on which log had bad luck with its exchanges.
    peak: Staleness,
    unfounded: bool,
}

impl Curve {
    fn of(order: Order, name: &'static str, logs: usize) -> Self {
        let mut curve = Self { name, seconds: vec![Staleness::default(); SECONDS], peak: Staleness::default(), unfounded: false };
        let share = 1.0 / SEEDS.count() as f64;
        for seed in SEEDS {
            let (mut world, mut peak) = (World::new(order, logs, seed), Staleness::default());
            for (second, mean) in curve.seconds.iter_mut().enumerate() {
                world.second(if DOUBLE.contains(&second) { 2 } else { 1 }, limit(logs));
                let now = world.staleness();
                peak = Staleness { max: peak.max.max(now.max), mean: peak.mean.max(now.mean) };
                mean.add(now, share);
            }
            curve.peak.add(peak, share);
            curve.unfounded |= world.unfounded;
            let rest = (1..=60).find(|_| {
                world.second(0, limit(logs));
                world.is_equal()
            });
            assert!(rest.is_some(), "{name}: the logs do not become equal");
        }
        curve
    }

    /// The largest staleness at the end of the second that ends then.
    fn at(&self, second: usize) -> f64 {
        self.seconds[second - 1].max
    }
}

impl Staleness {
    fn add(&mut self, other: Self, share: f64) {
        self.max += other.max * share;
        self.mean += other.mean * share;
    }
}

/// The directory that the files go to.
fn directory() -> PathBuf {
    let asked = std::env::var_os("SCUTTLEUP_STALENESS_DIR").map(PathBuf::from);
    let directory = asked.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("staleness"));
    fs::create_dir_all(&directory).unwrap_or_else(|err| panic!("{}: {err}", directory.display()));
    directory
}

fn ndjson(curves: &[Curve], logs: usize) -> String {
    let mut lines = String::new();
    for Curve { name, seconds, .. } in curves {
        for (second, Staleness { max, mean }) in (1..).zip(seconds) {
            lines.push_str(&format!("{{\"order\":\"{name}\",\"logs\":{logs},\"second\":{second},"));
            lines.push_str(&format!("\"staleness_max_s\":{max:.3},\"staleness_mean_s\":{mean:.3}}}\n"));
        }
    }
    lines
}

fn chart(curves: &[Curve], logs: usize) -> String {
    let lines = curves.iter().map(|curve| {
        let (max, mean) = curve.seconds.iter().map(|staleness| (staleness.max, staleness.mean)).unzip();
        Line { name: curve.name, max, mean }
    });
    let title = format!("{logs} logs, {} entries each way in an exchange, mean of {} runs", limit(logs), SEEDS.count());
    Chart { title, shaded: (DOUBLE, "double load"), lines: lines.collect() }.svg()
}

fn check_ndjson(ndjson: &str, logs: usize) {
    let lines: Vec<serde_json::Value> =
        ndjson.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|err| panic!("{err}: {line}"))).collect();
    assert_eq!(lines.len(), ORDERS.len() * SECONDS);
    for (nth, line) in lines.iter().enumerate() {
        let (order, second) = (ORDERS[nth / SECONDS].1, nth % SECONDS + 1);
        assert!(line["order"] == order && line["logs"] == logs && line["second"] == second, "{line}");
        let [max, mean] = ["staleness_max_s", "staleness_mean_s"].map(|name| line[name].as_f64().expect("a number"));
        assert!(0.0 < mean && mean <= max && max < SECONDS as f64, "{line}");
    }
}

fn check_svg(svg: &str) {
    let document = roxmltree::Document::parse(svg).unwrap_or_else(|err| panic!("{err}: {svg}"));
    assert!(document.root_element().has_tag_name(("http://www.w3.org/2000/svg", "svg")));
    let lines: Vec<_> = document.descendants().filter_map(|node| node.attribute("points")).collect();
    assert_eq!(lines.len(), 2 * ORDERS.len());
    for line in lines {
        let points: Vec<f64> = line.split([' ', ',']).map(|number| number.parse().expect("a number")).collect();
        assert_eq!(points.len(), 2 * SECONDS);
        let inside =
            |point: &[f64]| (chart::LEFT..=chart::RIGHT).contains(&point[0]) && (chart::TOP..=chart::BOTTOM).contains(&point[1]);
        assert!(points.chunks(2).all(inside), "{line}");
    }
    let texts: Vec<_> = document.descendants().filter_map(|node| node.text()).collect();
    for text in ["time (s)", "age of the oldest entry that is lacking (s)", "double load"].into_iter().chain(ORDERS.map(|o| o.1))
    {
        assert!(texts.contains(&text), "no {text:?}: {svg}");
    }
}

/// The row of ARCHITECTURE.md's table that these curves are in.
fn row(curves: &[Curve], logs: usize) -> String {
    let peaks: Vec<_> = curves.iter().map(|curve| format!("{:.0} s", curve.peak.max)).collect();
    format!("| {logs} logs | {} |", peaks.join(" | "))
}

fn overload(logs: usize) {
    let curves = ORDERS.map(|(order, name)| Curve::of(order, name, logs));
    let (ndjson, svg) = (ndjson(&curves, logs), chart(&curves, logs));
    for (ending, content) in [("ndjson", &ndjson), ("svg", &svg)] {
        let file = directory().join(format!("staleness-{logs}.{ending}"));
        fs::write(&file, content).unwrap_or_else(|err| panic!("{}: {err}", file.display()));
    }
    check_ndjson(&ndjson, logs);
    check_svg(&svg);

    for curve in &curves {
        let Curve { name, peak, .. } = curve;
        let (before, during, after) = (curve.at(DOUBLE.start), curve.at(DOUBLE.end), curve.at(SECONDS));
        println!("{name}: {before:.1} s, {during:.1} s, {after:.1} s; at most {:.1} s, mean {:.1} s", peak.max, peak.mean);
        assert!(before < 20.0, "{name}: normal load is too much");
        assert!(during > 2.0 * before, "{name}: double load is not too much");
        assert!(after < 2.0 * before, "{name}: it does not recover");
    }
    // The peaks are compared, not the curves second by second: an order that is over it later than another is not worse
    // for it, one that lets an entry wait longer is.
    let [oldest, most, feed] = &curves;
    for (of, figure) in [("the largest", (|peak| peak.max) as fn(Staleness) -> f64), ("the mean", |peak| peak.mean)] {
        let [oldest, most, feed] = [oldest, most, feed].map(|curve| figure(curve.peak));
        assert!(oldest <= 1.2 * most.min(feed), "{of}: {oldest:.1} s, but {most:.1} s and {feed:.1} s");
        // The line above can fail because of this.
        assert!(feed > 1.5 * oldest, "{of}: {feed:.1} s, and {oldest:.1} s");
    }
    assert!(!oldest.unfounded, "an entry came before what it may refer to");
    assert!(most.unfounded && feed.unfounded, "nothing can come too early here");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let page = fs::read_to_string(page).expect("ARCHITECTURE.md");
    let row = row(&curves, logs);
    assert!(page.contains(&format!("\n{row}\n")), "ARCHITECTURE.md has no row {row}");
}

#[test]
fn overload_of_48_logs() {
    overload(48);
}

#[test]
fn overload_of_128_logs() {
    overload(128);
}

/// A few logs that append and exchange at random, each exchange cut anywhere.
fn cut_anywhere(order: Order, seed: u64) -> bool {
    let logs = 2 + seed as usize % 7;
    let (mut world, mut random) = (World::new(order, logs, seed), Random(seed << 32));
    for _ in 0..500 {
        let (log, cut) = (random.below(logs), random.below(12));
        world.append(random.below(logs));
        let other = world.other_than(log);
        world.send(log, other, cut);
    }
    world.unfounded
}

#[test]
fn a_cut_exchange_leaves_a_closed_prefix() {
    let [oldest, others @ ..] = ORDERS.map(|(order, _)| (0..200).filter(|seed| cut_anywhere(order, *seed)).count());
    assert_eq!(oldest, 0, "an entry came before what it may refer to");
    assert!(others.into_iter().all(|seeds| seeds > 100), "next to nothing can come too early here: {others:?}");
}

#[test]
fn the_binary_sends_in_the_order_of_arrival() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    let (mut random, mut heads) = (Random(1), [0; 5]);
    let mut changes = String::new();
    for _ in 0..1000 {
        let feed = random.below(heads.len());
        heads[feed] += 1;
        changes.push_str(&format!("{{\"peer\":\"p{feed}\",\"seq\":{},\"entry\":1}}\n", heads[feed]));
    }
    Run::new(&a).args(["write"]).stdin(&changes).success();
    let words = ["-q", "replicate", "--once", "--", SCUTTLEUP, "-q", "--log", b.to_str().expect("UTF-8"), "replicate", "--once"];
    Run::new(&a).args(words).success();
    let [sent, arrived] = [&a, &b].map(|log| Run::new(log).args(["read"]).success().stdout);
    assert!(sent == arrived, "the remote got them in another order");
    assert_eq!(sent.iter().filter(|byte| **byte == b'\n').count(), 1000);
}
