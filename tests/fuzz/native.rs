//! Two sides on the native wire. The input decides their steps, and which bytes are damaged in transit. Every stored entry
//! equals the sent entry. If no byte was damaged, acknowledged entries are durable, and a session that is over is complete.
#![no_main]

#[path = "../sim/disk.rs"]
#[allow(dead_code)]
mod disk;
#[path = "../sim/side.rs"]
#[allow(dead_code)]
mod side;

use libfuzzer_sys::fuzz_target;
use scuttleup::Mode;

use disk::{Disk, Heads};
use side::Side;

const MODES: [Mode; 3] = [Mode::Sync, Mode::Push, Mode::Pull];

/// The rest of the input: the numbers that decide the next steps.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn next(&mut self) -> Option<usize> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first.into())
    }
}

struct World {
    disks: [Disk; 2],
    sides: [Side; 2],
    wires: [Vec<u8>; 2],
    /// Whether bytes that this side sent were damaged.
    damaged: [bool; 2],
    ended: bool,
}

fn append(disk: &mut Disk, peer: &str, count: usize) {
    for _ in 0..count {
        let seq = disk.head(peer) + 1;
        disk.push(peer, seq, format!("{peer}{seq}").as_bytes());
    }
}

impl World {
    fn new(script: &mut Script<'_>) -> Option<Self> {
        let mut disks = [Disk::default(), Disk::default()];
        let (options, own, both) = (script.next()?, script.next()?, script.next()?);
        for disk in &mut disks {
            append(disk, "c", both % 8);
        }
        let [one, other] = &mut disks;
        append(one, "a", own % 16);
        append(other, "b", own / 16);
        append(if both & 64 == 0 { one } else { other }, "c", both / 8 % 8);
        let mode = |n: usize| MODES[options / n % 3];
        let side = |at: usize, mode: Mode| Side::new(at, ["a", "b"][at], &disks[at], mode, options & 128 == 0, false);
        let sides = [side(0, mode(1)), side(1, mode(3))];
        Some(Self { disks, sides, wires: Default::default(), damaged: [false; 2], ended: false })
    }

    /// Does one step of one side. Returns false if the session failed although no byte was damaged.
    fn step(&mut self, step: usize, script: &mut Script<'_>) -> bool {
        let at = step % 2;
        let (side, disk) = (&mut self.sides[at], &mut self.disks[at]);
        let done = match step / 2 % 8 {
            0 | 1 => side.pump(disk, 1 + step / 16).map(|_| self.wires[at].append(&mut side.outgoing)),
            2 | 3 => {
                let count = self.wires[1 - at].len().min(if step & 128 == 0 { usize::MAX } else { 1 + step / 16 });
                let bytes: Vec<u8> = self.wires[1 - at].drain(..count).collect();
                side.receive(disk, &bytes)
            }
            4 | 5 => side.commit(disk),
            6 => {
                append(disk, ["a", "b"][at], 1 + step / 64);
                Ok(())
            }
            _ => {
                let (position, mask) = (script.next().unwrap_or(0), script.next().unwrap_or(0));
                // The preamble is never damaged, because this test is about the native wire.
                if let Some(byte) = self.wires[at].get_mut(8 + position) {
                    *byte ^= mask as u8;
                    self.damaged[at] |= mask > 0;
                }
                Ok(())
            }
        };
        self.ended |= done.is_err();
        done.is_ok() || self.damaged.contains(&true)
    }

    fn check(&self, start: &[Heads; 2]) {
        for at in [0, 1] {
            let (local, remote) = (&self.disks[at], &self.disks[1 - at]);
            for (peer, _, _) in local.feeds() {
                assert_eq!(local.fork(remote, peer), None, "{peer} differs between the logs");
                assert!(["a", "b", "c"].contains(&peer), "{peer} is an unknown feed");
            }
            if self.damaged.contains(&true) {
                continue;
            }
            let outgoing = &self.sides[at].session.outgoing;
            let (sent, durable) = (outgoing.framed(), outgoing.durable().unwrap_or(0));
            let held = |disk: &Disk| disk.order.len() as u64;
            assert!(durable <= sent && durable <= held(remote), "{durable} of {sent} are durable, but the remote log holds {}", held(remote));
            if self.sides[at].is_over() && self.sides[at].session.incoming.sends() {
                assert!(start[at].iter().all(|(peer, &seq)| remote.head(peer) >= seq), "over, but not complete");
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut script = Script(input);
    let Some(mut world) = World::new(&mut script) else { return };
    let start = [world.disks[0].heads(), world.disks[1].heads()];
    while let Some(step) = script.next() {
        assert!(world.step(step, &mut script), "a session failed, though nothing was damaged");
        world.check(&start);
        if world.ended {
            return;
        }
    }
    if world.damaged.contains(&true) {
        return;
    }
    // Without damage and without new entries, a session that is not live comes to its end.
    for step in (0..10_000).map(|n| [240, 241, 4, 5, 8, 9][n % 6]) {
        assert!(world.step(step, &mut script), "a session failed");
    }
    world.check(&start);
    let is_live = world.sides[0].session.outgoing.is_live();
    assert!(is_live || world.sides.iter().all(Side::is_over), "a session is stuck");
});
