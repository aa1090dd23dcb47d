//! Signals that arrive after the end of a session, or more than once.

use nix::sys::signal::Signal;

use crate::harness::{Place, Run, SCUTTLEUP};
use crate::replicate::await_entries;
use crate::wiring::two_logs;

#[test]
fn a_signal_after_the_end_of_a_session_changes_nothing() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    let command = ["sh", "-c", "\"$0\" -q --log \"$1\" replicate; kill -TERM $PPID; exec sleep 1000", SCUTTLEUP];
    let run = Run::new(&a).args(["replicate", "--once", "--"]).args(command).args([&b]);
    run.stderr("scuttleup: synced with b: sent 1 (1 durable on the remote), received 2\n").success();
}

/// timeout(1) sends its signal to the command and then to its process group, which includes the command.
#[test]
fn a_signal_that_is_sent_twice_at_once_counts_once() {
    let place = Place::new();
    let (a, b) = two_logs(&place);
    for _ in 0..20 {
        let (mut run, other) = Run::new(&a).args(["replicate", "--json"]).spawn_joined(Run::new(&b).args(["-q", "replicate"]));
        await_entries(&a, "b", 2);
        await_entries(&b, "a", 1);
        run.signal(Signal::SIGTERM);
        run.signal(Signal::SIGTERM);
        let ended = run.wait();
        assert_eq!(ended.status.code(), Some(143));
        assert!(ended.printed.stderr.contains("\"exit\":143"), "{}", ended.printed.stderr);
        drop(other);
    }
}
