//! A live session with --mode push.

use crate::harness::{Place, Run, SCUTTLEUP, hashed};

#[test]
fn a_live_push_goes_on_after_the_remote_has_ended_its_output() {
    let place = Place::new();
    let (a, b) = (place.log("a"), place.log("b"));
    let append = |entry: &str| Run::new(&a).args(["append"]).stdin(entry).success();
    append("1");
    // The remote may not send to a log that pushes, so it ends its output at once. The local output must go on.
    let b_log = b.to_str().expect("UTF-8");
    let session =
        Run::new(&a).args(["-q", "replicate", "--mode", "push", "--", SCUTTLEUP, "-q", "--log", b_log, "replicate"]).spawn();
    let mut watch = Run::new(&b).args(["watch"]).spawn();
    assert_eq!(watch.line(), hashed("{\"offset\":1,\"peer\":\"a\",\"seq\":1,\"entry\":1}\n"));
    append("2");
    assert_eq!(watch.line(), hashed("{\"offset\":2,\"peer\":\"a\",\"seq\":2,\"entry\":2}\n"));
    drop(session);
}
