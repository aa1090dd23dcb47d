//! Stores entries in a log: batches of hashed entries, a pipeline that commits them in groups, and the decision about each
//! entry.

mod apply;
mod batch;
pub mod pipeline;
mod quota;
mod sealing;
mod tail;

pub use apply::{Applied, Applier, GAP_ENTRIES_MAX, StopCause, StoppedFeed, record_forks};
pub use batch::Batch;
pub use quota::{NEW_FEEDS_MAX, Quota};
pub use sealing::{Failure, Sealing};
pub use tail::{FollowNotice, Found, Start, Step, Tails};
