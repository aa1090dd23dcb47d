//! The protocol in a world of its own: many logs in virtual time, links that are cut and logs that crash, all from a seed.
//!
//! The state machine is the one of the program; disks, links and time are a model. `SCUTTLEUP_SEED=N` runs one seed;
//! `scripts/soak --sim` goes on through all of them.

mod disk;
mod side;
mod spy;
mod world;

use world::World;

const SEEDS: u64 = 1000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

/// One life of a world; how many forks were found, and how many sessions ended well.
fn live(seed: u64) -> (u32, u32) {
    // Shown if it fails.
    println!("SCUTTLEUP_SEED={seed}");
    // Mostly few logs, on which more happens.
    let logs = [2, 2, 3, 3, 4, 5, 8, 12][(seed % 8) as usize];
    let mut world = World::new(seed, logs, seed.is_multiple_of(3));
    let faults = !seed.is_multiple_of(5);
    for _ in 0..400 {
        world.step(faults);
    }
    // Twice around the ring, everything has been everywhere.
    world.settle(3);
    world.assert_equal();
    (world.forks_found, world.finished)
}

/// Every `step`th seed from `first` on.
fn seeds(first: u64, step: usize) {
    let (mut forks, mut finished) = (0, 0);
    if let Some(seed) = number("SCUTTLEUP_SEED") {
        live(seed);
        return;
    }
    let base = number("SCUTTLEUP_SEED_FIRST").unwrap_or(0);
    for seed in (first..number("SCUTTLEUP_SEEDS").unwrap_or(SEEDS)).step_by(step) {
        let (found, ended) = live(base + seed);
        (forks, finished) = (forks + found, finished + ended);
    }
    // Else nothing of all this was tried.
    assert!(forks > 10 && finished > 1000, "{forks} forks, {finished} sessions");
}

#[test]
fn a_thousand_worlds_even() {
    seeds(0, 2);
}

#[test]
fn a_thousand_worlds_odd() {
    seeds(1, 2);
}

/// So many logs as one will ever see at once.
#[test]
fn a_world_of_128_logs() {
    let mut world = World::new(128, 128, false);
    (0..128).for_each(|log| world.append(log));
    for _ in 0..6000 {
        world.step(true);
    }
    world.settle(2);
    world.assert_equal();
}
