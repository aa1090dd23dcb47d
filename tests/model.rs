//! Random operations on three logs, compared with a simple model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::harness::{Place, Run, root, shell};
use crate::hostile::Random;
use crate::native_frames::chain_of;
use crate::replicate::join;

const LOGS: [&str; 3] = ["a", "b", "c"];
const MODES: [&str; 3] = ["sync", "push", "pull"];
const SEEDS: u64 = 30;
const STEPS: usize = 40;

type Peer = &'static str;

/// The end of a feed in a log.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Head {
    seq: usize,
    /// The seq up to which the feed was pruned, in this log or in one that it comes from.
    floor: usize,
}

/// An entry in a log; its text is `None` if it was deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    peer: Peer,
    seq: usize,
    text: Option<String>,
}

/// One log.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Model {
    feeds: BTreeMap<Peer, Head>,
    /// The entries that are there, in order of arrival.
    entries: Vec<Entry>,
    /// The number of entries that were pruned: those with the lowest offsets.
    pruned: usize,
}

impl Model {
    fn head(&self, peer: Peer) -> Head {
        self.feeds.get(peer).copied().unwrap_or_default()
    }

    fn last_offset(&self) -> usize {
        self.pruned + self.entries.len()
    }

    fn push(&mut self, entry: Entry) {
        self.feeds.entry(entry.peer).or_default().seq = entry.seq;
        self.entries.push(entry);
    }

    /// Prunes the entries with the offsets up to `floor`.
    fn prune(&mut self, floor: usize) {
        for Entry { peer, seq, .. } in self.entries.drain(..floor - self.pruned) {
            let head = self.feeds.get_mut(peer).expect("a feed");
            head.floor = seq.max(head.floor);
        }
        self.pruned = floor;
    }

    /// Whether a feed has entries, or had them, that `other` neither holds nor has pruned.
    fn is_ahead_of(&self, other: &Self) -> bool {
        self.feeds.iter().any(|(peer, head)| head.seq > other.head(peer).seq)
    }

    /// The heads without the floors, which differ between equal logs.
    fn seqs(&self) -> Vec<(Peer, usize)> {
        self.feeds.iter().map(|(peer, head)| (*peer, head.seq)).collect()
    }
}

/// The result of one direction of a session.
struct Flow {
    /// The receiver after it.
    after: Model,
    sent: usize,
    /// Whether the receiver lacks entries that the wire cannot carry. The sender knows it too.
    misses: bool,
    /// The notices of the sender and the receiver about pruned entries.
    sender_says: Vec<String>,
    receiver_says: Vec<String>,
}

impl Flow {
    fn none(to: &Model) -> Self {
        Self { after: to.clone(), sent: 0, misses: false, sender_says: Vec::new(), receiver_says: Vec::new() }
    }
}

/// One direction of a session on the native wire, which also sends deleted entries and floors.
fn native_flow(from: &Model, to: &Model) -> Flow {
    let mut flow = Flow::none(to);
    for (peer, &Head { floor, .. }) in &from.feeds {
        if floor > to.head(peer).seq {
            flow.after.feeds.insert(peer, Head { seq: floor, floor });
            flow.receiver_says.push(format!("the remote has pruned the entries of {peer} up to {floor}: "));
        }
    }
    for entry in &from.entries {
        if entry.seq > flow.after.head(entry.peer).seq {
            flow.sent += 1;
            flow.after.push(entry.clone());
        }
    }
    flow
}

/// The same on the original wire, which does not send deleted entries, and for which a floor is a gap.
fn flow(from: &Model, to: &Model) -> Flow {
    let mut flow = Flow::none(to);
    let mut stopped = BTreeSet::new();
    for (peer, &Head { floor, .. }) in &from.feeds {
        if floor > to.head(peer).seq {
            flow.sender_says.push(format!("the entries of {peer} up to {floor} were pruned in this log, the original wire "));
            stopped.insert(peer);
        }
    }
    for entry in &from.entries {
        let Entry { peer, seq, text } = entry;
        let head = flow.after.head(peer).seq;
        if *seq <= head.max(from.head(peer).floor) {
            continue;
        }
        flow.sent += usize::from(text.is_some());
        if text.is_none() {
            stopped.insert(peer);
        } else if stopped.contains(peer) {
            // The receiver cannot store it.
            let said = format!("gap: the remote sent entry {seq} of {peer} after entry {head}, ");
            let is_first = !flow.receiver_says.iter().any(|other| other.contains(&format!(" of {peer} after ")));
            flow.receiver_says.extend(is_first.then_some(said));
        } else {
            flow.after.push(entry.clone());
        }
    }
    flow.misses = !stopped.is_empty();
    flow
}

struct World {
    paths: [PathBuf; 3],
    models: [Model; 3],
    /// The texts of all entries of each feed.
    texts: BTreeMap<Peer, Vec<String>>,
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
        for text in lines {
            self.texts.entry(LOGS[log]).or_default().push(text.clone());
            let seq = self.models[log].head(LOGS[log]).seq + 1;
            self.models[log].push(Entry { peer: LOGS[log], seq, text: Some(text) });
        }
        format!("append {count} to {}", LOGS[log])
    }

    fn del(&mut self) -> String {
        let (log, feed) = (self.random.below(3), LOGS[self.random.below(3)]);
        let seq = 1 + self.random.below(self.models[log].head(feed).seq + 1);
        let entry = self.models[log].entries.iter_mut().find(|entry| entry.peer == feed && entry.seq == seq);
        Run::new(&self.paths[log]).args(["del", feed, &seq.to_string()]).status(i32::from(entry.is_none()));
        if let Some(entry) = entry {
            entry.text = None;
        }
        format!("del {feed} {seq} in {}", LOGS[log])
    }

    fn compact(&mut self) -> String {
        let log = self.random.below(3);
        Run::new(&self.paths[log]).args(["compact"]).success();
        self.verify(log);
        format!("compact {}", LOGS[log])
    }

    /// Prunes a log, sometimes one with a cursor, and then sometimes beyond it.
    fn prune(&mut self) -> String {
        let log = self.random.below(3);
        let (path, model) = (&self.paths[log], &self.models[log]);
        let (last, keep) = (model.last_offset(), self.random.below(8));
        let mut step = format!("prune --keep-last {keep} in {}", LOGS[log]);
        // The newest entry stays.
        let wanted = last.saturating_sub(keep.max(1)).max(model.pruned);
        let keep = keep.to_string();
        let mut args = vec!["prune", "--keep-last", &keep];
        let (mut floor, mut code) = (wanted, 0);
        if self.random.below(2) == 0 {
            let (cursor, is_forced) = (self.random.below(last + 1), self.random.below(2) == 0);
            Run::new(path).args(["cursor", "set", "reader", &cursor.to_string()]).success();
            step = format!("{step} with a cursor at {cursor}, forced: {is_forced}");
            if is_forced {
                args.push("--force");
            } else if cursor < wanted {
                (floor, code) = (cursor.max(model.pruned), 6);
            }
        }
        Run::new(path).args(&args).status(code);
        if step.contains("cursor") {
            Run::new(path).args(["cursor", "rm", "reader"]).success();
        }
        self.models[log].prune(floor);
        self.verify(log);
        step
    }

    fn replicate(&mut self) -> String {
        let (one, other) = self.two();
        let [mode_one, mode_other] = [(); 2].map(|()| MODES[self.random.below(3)]);
        let wire = ["native", "original"][self.random.below(2)];
        let step = format!("replicate {} --mode {mode_one} with {} --mode {mode_other} ({wire})", LOGS[one], LOGS[other]);
        let flow = if wire == "native" { native_flow } else { flow };
        let flow_of = |from: usize, to: usize, mode_from: &str, mode_to: &str| {
            let moves = mode_from != "pull" && mode_to != "push";
            if moves { flow(&self.models[from], &self.models[to]) } else { Flow::none(&self.models[to]) }
        };
        let to_other = flow_of(one, other, mode_one, mode_other);
        let to_one = flow_of(other, one, mode_other, mode_one);
        let args = |mode| ["--once", "--wire", wire, "--mode", mode];
        let (ended_one, ended_other) = join(&self.paths[one], &args(mode_one), &self.paths[other], &args(mode_other));
        let refused_one = self.is_refused(one, other, mode_one, mode_other, wire);
        let refused_other = self.is_refused(other, one, mode_other, mode_one, wire);
        let misses = to_one.misses || to_other.misses;
        let sides = [(ended_one, &to_other, &to_one, refused_one), (ended_other, &to_one, &to_other, refused_other)];
        for (ended, Flow { sent, sender_says, .. }, Flow { receiver_says, .. }, is_refused) in sides {
            let said = ended.printed.stderr;
            let code = if misses { 3 } else { 6 * i32::from(is_refused) };
            assert_eq!(ended.status.code(), Some(code), "{step}: {said}");
            let count =
                said.split_once(": sent ").map(|(_, rest)| rest.split([' ', ',', '\n']).next() == Some(&sent.to_string()));
            let is_counted = count.unwrap_or(said.contains(&format!(": {sent} of {sent} sent to ")) || *sent == 0);
            assert!(is_counted, "{step}: not sent {sent}: {said}");
            let expected = sender_says.iter().chain(receiver_says);
            expected.for_each(|text| assert!(said.contains(text), "{step}: no {text:?} in {said}"));
            let notices = ["were pruned in this log", "the remote has pruned", "gap: the remote sent"];
            let notices: usize = notices.iter().map(|notice| said.matches(notice).count()).sum();
            assert_eq!(notices, sender_says.len() + receiver_says.len(), "{step}: {said}");
        }
        (self.models[one], self.models[other]) = (to_one.after, to_other.after);
        step
    }

    /// Whether the remote's mode keeps entries back that the local mode asks for.
    fn is_refused(&self, local: usize, remote: usize, mode: &str, remote_mode: &str, wire: &str) -> bool {
        let (local, remote) = (&self.models[local], &self.models[remote]);
        let unsent = mode != "pull" && remote_mode == "push" && local.is_ahead_of(remote);
        // On the native wire, a remote that only receives does not say what it holds, unless the logs are equal.
        // Neither a deletion nor a pruning makes them different.
        let is_silent = wire == "native" && (mode == "pull" || local.seqs() != remote.seqs());
        unsent || mode != "push" && remote_mode == "pull" && (is_silent || remote.is_ahead_of(local))
    }

    /// `read | write` also copies deleted entries and floors.
    fn copy(&mut self) -> String {
        let (from, to) = self.two();
        let line = shell("\"$scuttleup\" --log \"$from\" read | \"$scuttleup\" --log \"$to\" write");
        line.env("from", &self.paths[from]).env("to", &self.paths[to]).success();
        self.models[to] = native_flow(&self.models[from], &self.models[to]).after;
        format!("read {} | write {}", LOGS[from], LOGS[to])
    }

    fn verify(&self, log: usize) {
        Run::new(&self.paths[log]).args(["verify"]).stdout("").success();
    }

    /// The lines of `read --text`, without the hashes.
    fn lines_of(&self, model: &Model) -> Vec<String> {
        let floor = |(peer, head): (&Peer, &Head)| {
            let texts: Vec<_> = self.texts[peer].iter().take(head.floor).map(String::as_str).collect();
            let chain = chain_of(peer, &texts);
            format!("{{\"peer\":\"{peer}\",\"seq\":{},\"floor\":true,\"chain\":\"{chain:032x}\"}}", head.floor)
        };
        let floors = model.feeds.iter().filter(|(_, head)| head.floor > 0).map(floor);
        let entries = (model.pruned + 1..).zip(&model.entries).map(|(offset, Entry { peer, seq, text })| {
            let payload = text.as_ref().map_or("\"deleted\":true".into(), |text| format!("\"text\":\"{text}\""));
            format!("{{\"offset\":{offset},\"peer\":\"{peer}\",\"seq\":{seq},{payload}")
        });
        floors.chain(entries).collect()
    }

    fn check(&self, steps: &[String]) {
        for ((path, model), own) in self.paths.iter().zip(&self.models).zip(LOGS) {
            let read = Run::new(path).args(["read", "--text"]).success();
            let held: Vec<_> = read.lines().into_iter().map(|line| line.split(",\"hash\"").next().unwrap_or_default()).collect();
            assert_eq!(held, self.lines_of(model), "{} after {steps:#?}", path.display());
            let head_of = |(peer, head): (&Peer, &Head)| {
                let own = if *peer == own { ",\"own\":true" } else { "" };
                let floor = if head.floor > 0 { format!(",\"floor\":{}", head.floor) } else { String::new() };
                format!("{{\"peer\":\"{peer}\",\"seq\":{}{own}{floor}}}", head.seq)
            };
            let heads = Run::new(path).args(["heads"]).success();
            assert_eq!(heads.lines(), model.feeds.iter().map(head_of).collect::<Vec<_>>(), "{} after {steps:#?}", path.display());
        }
        let roots: BTreeSet<_> = self.paths.iter().map(|path| root(path)).collect();
        let heads: BTreeSet<_> = self.models.iter().map(Model::seqs).collect();
        assert_eq!(roots.len(), heads.len(), "equal heads must have equal roots: after {steps:#?}");
    }
}

fn random_operations(seed: u64) {
    // The output is shown only if the test fails.
    println!("seed {seed}");
    let place = Place::new();
    let paths = LOGS.map(|id| place.log(id));
    let mut world = World { paths, models: Default::default(), texts: BTreeMap::new(), random: Random(seed), entries: 0 };
    let mut steps = Vec::new();
    for _ in 0..STEPS {
        let step = match world.random.below(15) {
            0..4 => world.append(),
            4 => world.del(),
            5..11 => world.replicate(),
            11 => world.copy(),
            12 => world.compact(),
            _ => world.prune(),
        };
        steps.push(step);
        world.check(&steps);
    }
    (0..LOGS.len()).for_each(|log| world.verify(log));
}

#[test]
fn random_operations_of_even_seeds() {
    (0..SEEDS).step_by(2).for_each(random_operations);
}

#[test]
fn random_operations_of_odd_seeds() {
    (1..SEEDS).step_by(2).for_each(random_operations);
}
