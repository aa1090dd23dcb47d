//! Random operations on three logs, compared with a simple model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::harness::{Place, Run, heads, root, shell};
use crate::hostile::Random;
use crate::replicate::join;

const LOGS: [&str; 3] = ["a", "b", "c"];
const MODES: [&str; 3] = ["sync", "push", "pull"];
const SEEDS: u64 = 30;
const STEPS: usize = 25;

/// The entries of each feed; `None` is a deleted entry.
type Model = BTreeMap<&'static str, Vec<Option<String>>>;

/// One direction of a session on the native wire, which also sends deleted entries. Returns the receiver after it, the number
/// of sent entries, and whether the receiver lacks entries.
fn native_flow(from: &Model, to: &Model) -> (Model, u64, bool) {
    let (mut after, mut sent) = (to.clone(), 0);
    for (peer, entries) in from {
        let above = entries.get(to.get(peer).map_or(0, Vec::len)..).unwrap_or_default();
        sent += above.len() as u64;
        if !above.is_empty() {
            after.entry(peer).or_default().extend(above.iter().cloned());
        }
    }
    (after, sent, false)
}

/// The same on the original wire, which does not send deleted entries. If the receiver lacks entries, the sender knows it
/// too.
fn flow(from: &Model, to: &Model) -> (Model, u64, bool) {
    let (mut after, mut sent, mut missing) = (to.clone(), 0, false);
    for (peer, entries) in from {
        let head = to.get(peer).map_or(0, Vec::len);
        let above = entries.get(head..).unwrap_or_default();
        sent += above.iter().filter(|entry| entry.is_some()).count() as u64;
        // The entries after a deleted entry are sent, but the receiver cannot store them.
        let whole: Vec<_> = above.iter().take_while(|entry| entry.is_some()).cloned().collect();
        missing |= whole.len() < above.len();
        if !whole.is_empty() {
            after.entry(peer).or_default().extend(whole);
        }
    }
    (after, sent, missing)
}

/// The entries of each feed of a log; a deleted entry is "deleted".
fn held(log: &Path) -> BTreeMap<String, Vec<String>> {
    let mut held: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in Run::new(log).args(["read", "--text"]).success().json() {
        let feed = held.entry(line["peer"].as_str().expect("a peer").into()).or_default();
        feed.push(line["text"].as_str().unwrap_or("deleted").into());
        assert_eq!(line["seq"], feed.len(), "{line}");
    }
    held
}

fn shown(model: &Model) -> BTreeMap<String, Vec<String>> {
    let text = |entry: &Option<String>| entry.clone().unwrap_or_else(|| "deleted".into());
    model.iter().map(|(peer, entries)| ((*peer).into(), entries.iter().map(text).collect())).collect()
}

fn heads_of(model: &Model) -> Vec<String> {
    model.iter().map(|(peer, entries)| format!("{{\"peer\":\"{peer}\",\"seq\":{}}}", entries.len())).collect()
}

struct World {
    paths: [PathBuf; 3],
    models: [Model; 3],
    random: Random,
    entries: usize,
}

impl World {
    /// Two different logs.
    fn two(&mut self) -> (usize, usize) {
        let one = self.random.below(3);
        (one, (one + 1 + self.random.below(2)) % 3)
    }

    fn append(&mut self) -> String {
        let (log, count) = (self.random.below(3), 1 + self.random.below(4));
        let lines: Vec<_> = (self.entries..self.entries + count).map(|n| format!("entry {n}")).collect();
        self.entries += count;
        Run::new(&self.paths[log]).args(["append", "--text"]).stdin(lines.join("\n")).success();
        self.models[log].entry(LOGS[log]).or_default().extend(lines.into_iter().map(Some));
        format!("append {count} to {}", LOGS[log])
    }

    fn del(&mut self) -> String {
        let (log, feed, seq) = (self.random.below(3), LOGS[self.random.below(3)], 1 + self.random.below(6));
        let place = self.models[log].get_mut(feed).and_then(|entries| entries.get_mut(seq - 1));
        let code = i32::from(place.is_none());
        Run::new(&self.paths[log]).args(["del", feed, &seq.to_string()]).status(code);
        if let Some(entry) = place {
            *entry = None;
        }
        format!("del {feed} {seq} in {}", LOGS[log])
    }

    fn replicate(&mut self) -> String {
        let (one, other) = self.two();
        let [mode_one, mode_other] = [(); 2].map(|()| MODES[self.random.below(3)]);
        let wire = ["native", "original"][self.random.below(2)];
        let step = format!("replicate {} --mode {mode_one} with {} --mode {mode_other} ({wire})", LOGS[one], LOGS[other]);
        let flow = if wire == "native" { native_flow } else { flow };
        let flow_of = |from: usize, to: usize, mode_from: &str, mode_to: &str| {
            let moves = mode_from != "pull" && mode_to != "push";
            if moves { flow(&self.models[from], &self.models[to]) } else { (self.models[to].clone(), 0, false) }
        };
        let (after_other, sent_one, other_misses) = flow_of(one, other, mode_one, mode_other);
        let (after_one, sent_other, one_misses) = flow_of(other, one, mode_other, mode_one);
        let args = |mode| ["--once", "--wire", wire, "--mode", mode];
        let (ended_one, ended_other) = join(&self.paths[one], &args(mode_one), &self.paths[other], &args(mode_other));
        let refused_one = self.is_refused(one, other, mode_one, mode_other, wire);
        let refused_other = self.is_refused(other, one, mode_other, mode_one, wire);
        for (ended, sent, is_refused) in [(ended_one, sent_one, refused_one), (ended_other, sent_other, refused_other)] {
            let said = ended.printed.stderr;
            let code = if one_misses || other_misses { 3 } else { 6 * i32::from(is_refused) };
            assert_eq!(ended.status.code(), Some(code), "{step}: {said}");
            let count =
                said.split_once(": sent ").map(|(_, rest)| rest.split([' ', ',', '\n']).next() == Some(&sent.to_string()));
            let is_counted = count.unwrap_or(said.contains(&format!(": {sent} of {sent} sent to ")) || sent == 0);
            assert!(is_counted, "{step}: not sent {sent}: {said}");
        }
        (self.models[one], self.models[other]) = (after_one, after_other);
        step
    }

    /// Whether the remote's mode keeps entries back that the local mode asks for.
    fn is_refused(&self, local: usize, remote: usize, mode: &str, remote_mode: &str, wire: &str) -> bool {
        let lacks = |from: usize, to: usize| native_flow(&self.models[from], &self.models[to]).0 != self.models[to];
        let unsent = mode != "pull" && remote_mode == "push" && lacks(local, remote);
        // On the native wire, a remote that only receives does not say what it holds, unless the logs are equal.
        // A deletion does not make them different.
        let heads =
            |log: usize| -> Vec<(&&str, usize)> { self.models[log].iter().map(|(peer, feed)| (peer, feed.len())).collect() };
        let is_silent = wire == "native" && (mode == "pull" || heads(local) != heads(remote));
        unsent || mode != "push" && remote_mode == "pull" && (is_silent || lacks(remote, local))
    }

    /// `read | write` also copies deleted entries.
    fn copy(&mut self) -> String {
        let (from, to) = self.two();
        let line = shell("\"$scuttleup\" --log \"$from\" read | \"$scuttleup\" --log \"$to\" write");
        line.env("from", &self.paths[from]).env("to", &self.paths[to]).success();
        for (peer, entries) in self.models[from].clone() {
            let feed = self.models[to].entry(peer).or_default();
            feed.extend(entries.into_iter().skip(feed.len()));
        }
        format!("read {} | write {}", LOGS[from], LOGS[to])
    }

    fn check(&self, steps: &[String]) {
        for (path, model) in self.paths.iter().zip(&self.models) {
            assert_eq!(held(path), shown(model), "{} after {steps:#?}", path.display());
            assert_eq!(heads(path), heads_of(model), "{} after {steps:#?}", path.display());
        }
    }
}

fn random_operations(seed: u64) {
    // The output is shown only if the test fails.
    println!("seed {seed}");
    let place = Place::new();
    let paths = LOGS.map(|id| place.log(id));
    let mut world = World { paths, models: Default::default(), random: Random(seed), entries: 0 };
    let mut steps = Vec::new();
    for _ in 0..STEPS {
        let step = match world.random.below(10) {
            0..4 => world.append(),
            4 => world.del(),
            5..9 => world.replicate(),
            _ => world.copy(),
        };
        steps.push(step);
        world.check(&steps);
    }
    let roots: BTreeSet<_> = world.paths.iter().map(|path| root(path)).collect();
    let heads: BTreeSet<_> = world.models.iter().map(heads_of).collect();
    assert_eq!(roots.len(), heads.len(), "equal heads must have equal roots: after {steps:#?}");
}

#[test]
fn random_operations_of_even_seeds() {
    (0..SEEDS).step_by(2).for_each(random_operations);
}

#[test]
fn random_operations_of_odd_seeds() {
    (1..SEEDS).step_by(2).for_each(random_operations);
}
