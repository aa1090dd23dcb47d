//! Simulates many logs in virtual time. Sessions are cut, and logs crash. A seed decides all events.
//!
//! The sessions are those of the program (`wire::Session`); disks, links and time are a model. `SCUTTLEUP_SEED=N` runs one
//! seed; `scripts/soak --sim` runs all of them.

mod disk;
mod side;
mod spy;
mod world;

use world::World;

const SEEDS: u64 = 1000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

/// Runs the world of a seed. Returns the number of forks that were found, of sessions that were completed, and of prunings.
fn run_seed(seed: u64) -> [u32; 3] {
    // The output of a test is shown only if it fails.
    println!("SCUTTLEUP_SEED={seed}");
    // Worlds with few logs are more frequent: each of their logs has more events.
    let logs = [2, 2, 3, 3, 4, 5, 8, 12][(seed % 8) as usize];
    let mut world = World::new(seed, logs, seed.is_multiple_of(3));
    let faults = !seed.is_multiple_of(5);
    for _ in 0..400 {
        world.step(faults);
    }
    // After two rounds, every entry has reached every log.
    world.settle(3);
    world.assert_equal();
    [world.forks_found, world.finished, world.prunings]
}

/// Runs every `step`th seed from `first` on.
fn seeds(first: u64, step: usize) {
    let mut counts = [0; 3];
    if let Some(seed) = number("SCUTTLEUP_SEED") {
        run_seed(seed);
        return;
    }
    let base = number("SCUTTLEUP_SEED_FIRST").unwrap_or(0);
    for seed in (first..number("SCUTTLEUP_SEEDS").unwrap_or(SEEDS)).step_by(step) {
        counts.iter_mut().zip(run_seed(base + seed)).for_each(|(count, more)| *count += more);
    }
    // Without forks and completed sessions, the simulation would test nothing.
    let [forks, finished, prunings] = counts;
    assert!(forks > 5 && finished > 1000 && prunings > 500, "{forks} forks, {finished} sessions, {prunings} prunings");
}

#[test]
fn a_thousand_worlds_even() {
    seeds(0, 2);
}

#[test]
fn a_thousand_worlds_odd() {
    seeds(1, 2);
}

/// More logs than are expected in practice.
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
