//! Processes that do not read, do not end, or send nothing useful do not block other processes.

use std::fs;

use nix::sys::signal::Signal;

use crate::harness::{Place, Run, Running, SCUTTLEUP, hashed, shell};

/// A handshake of an empty log `alice`.
const HANDSHAKE: &[u8] = b"\x09\x0a\x05alice\x18\x01";

#[test]
fn a_failed_commit_does_not_truncate_the_data_file() {
    let place = Place::new();
    let (log, trace) = (place.log("a"), place.path("trace"));
    // Another process may have made the data file longer meanwhile: truncating it would destroy data.
    let strace = ["-f", "-e", "inject=writev:error=EIO:when=1", "-e", "trace=writev,ftruncate,fallocate", "-o"];
    let run = Run::program("strace").args(strace).args([trace.as_os_str()]).args([SCUTTLEUP, "append", "--log"]).args([&log]);
    run.stdin("1\n").stderr_has("Input/output error").status(1);
    let trace = fs::read_to_string(trace).expect("a trace");
    assert!(trace.contains("EIO") && trace.contains("fallocate") && !trace.contains("ftruncate"), "{trace}");
}

#[test]
fn a_signal_ends_a_session_that_cannot_write_and_has_nothing_to_read() {
    let place = Place::new();
    let log = place.log("a");
    Run::new(&log).args(["append", "--raw"]).stdin(vec![b'x'; 4 << 20]).success();
    let handshake = place.file("handshake", HANDSHAKE);
    // Its stdout is a fifo that this shell holds open and never reads.
    let line = "mkfifo \"$FIFO\"; exec 3<>\"$FIFO\"; exec $SCUTTLEUP --log \"$LOG\" replicate < \"$HANDSHAKE\" > \"$FIFO\"";
    let mut session: Running = shell(line).env("FIFO", place.path("fifo")).env("LOG", &log).env("HANDSHAKE", &handshake).spawn();
    wait_for_full_pipe(session.pid());
    session.signal(Signal::SIGTERM);
    assert_eq!(session.wait().status.code(), Some(143));
}

/// Waits until the writer thread of a process is blocked on a full pipe: the main thread waits for another thread, and two
/// threads wait in poll, the writer and the thread that waits for signals.
fn wait_for_full_pipe(pid: u32) {
    let is_stuck = || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let calls = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("syscall")).ok());
        // System call numbers: poll is 7 on x86-64, ppoll 73 on arm64. A thread is joined with futex, 202 and 98.
        let calls: Vec<_> = calls.filter_map(|call| Some(call.split(' ').next()?.to_owned())).collect();
        let waits = calls.iter().filter(|&call| call == "7" || call == "73").count() > 1;
        let joins = calls.iter().any(|call| call == "202" || call == "98");
        (waits && joins).then_some(())
    };
    while is_stuck().is_none() {
        assert!(fs::metadata(format!("/proc/{pid}")).is_ok(), "the process has ended");
        std::thread::yield_now();
    }
}

#[test]
fn a_full_stderr_pipe_does_not_hold_the_write_lock() {
    let place = Place::new();
    let log = place.log("a");
    let gaps: String = (0..3000).map(|n| format!("{{\"peer\":\"p{n}\",\"seq\":5,\"entry\":1}}\n")).collect();
    let gaps = place.file("gaps", gaps);
    // `write` prints so many messages that its stderr pipe is full; `append` must not wait for it.
    let line = "mkfifo \"$FIFO\"; exec 3<>\"$FIFO\"; $scuttleup --log \"$LOG\" write < \"$GAPS\" 2> \"$FIFO\" & \
                head -c 60000 <&3 > /dev/null; echo 1 | $scuttleup --log \"$LOG\" append; code=$?; kill -9 %1; exit $code";
    shell(line).env("FIFO", place.path("fifo")).env("LOG", &log).env("GAPS", &gaps).success();
    assert_eq!(Run::new(&log).args(["read"]).success().lines().len(), 1);
}

#[test]
fn blank_lines_are_not_kept_in_memory() {
    let place = Place::new();
    for command in ["append", "write"] {
        let line = "head -c 150M /dev/zero | tr '\\0' '\\n' | (ulimit -v 130000; $scuttleup --log \"$LOG\" $COMMAND)";
        shell(line).env("LOG", place.log(command)).env("COMMAND", command).success();
    }
}

#[test]
fn a_command_that_only_closes_its_output_is_terminated() {
    let place = Place::new();
    let run = Run::new(&place.log("a")).args(["replicate", "--once", "--", "sh", "-c", "exec >&-; exec sleep 1000"]);
    run.stderr_has("ended before its handshake").status(3);
}

#[test]
fn a_file_named_stdin_is_a_file() {
    let place = Place::new();
    let log = place.log("a");
    Run::new(&log).args(["append"]).stdin("1\n2\n").success();
    place.file("stdin", "{\"peer\":\"a\",\"seq\":1}\n");
    let line = "cd \"$DIR\" && $scuttleup --log a read --since-heads stdin";
    let printed = shell(line).env("DIR", place.path("")).success();
    assert_eq!(printed.text(), hashed("{\"offset\":2,\"peer\":\"a\",\"seq\":2,\"entry\":2}\n"));
}

#[test]
fn a_session_with_a_copy_of_the_log_prints_a_warning() {
    let place = Place::new();
    let log = place.log("a");
    Run::new(&log).args(["append"]).stdin("1\n").success();
    shell("cp -r \"$A\" \"$B\"; $scuttleup --log \"$B\" id --keep").env("A", &log).env("B", place.path("b")).success();
    let other = place.path("b");
    let run = Run::new(&log).args(["replicate", "--once", "--", SCUTTLEUP, "-q", "--log"]).args([&other]).args(["replicate"]);
    run.stderr_has("the remote has the same id, a").success();
}
