//! Checks a whole log: all files, pages, tables, hashes and chains against each other.
//!
//! | file | content |
//! |---|---|
//! | `pages` | the pages of data.mdb, which are checked before they are trusted |
//! | `state` | the consistent state of data.mdb that is checked, also while writers commit |
//! | `tables` | the rows of all tables, and what they say about each other |
//! | `salvage` | what can still be read of a damaged log |
//! | `feeds` | the state of each feed while the entries are read |
//!
//! The memory is bounded: 30 bytes for each feed, one bit for each page, and 24 bytes for each range of damaged entries.

mod feeds;
mod pages;
pub mod salvage;
mod state;
mod tables;

use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;

use super::files::open_once::OpenOnce;
use super::files::{created, data, directory};
use super::notify;
use crate::model::{Error, Offset, PeerId, Result, Seq};

/// The part of a log that is damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// A file of the log.
    File,
    /// A page of data.mdb. The rows on it are lost.
    Page,
    /// A row of a table, other than an entry.
    Row,
    /// The record of an entry is damaged.
    Entry,
    /// An entry has no record.
    Missing,
    /// A pack. The entries in it that cannot be read are missing.
    Pack,
    /// The run that says where an entry is.
    Run,
    /// The chain of a feed.
    Chain,
    /// The root of the log.
    Root,
}

/// One damage of a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The part that is damaged.
    pub part: Part,
    /// Its place: a file, a page, a row or an offset.
    pub place: String,
    /// The fault there.
    pub why: String,
    /// The peer of the feed that it concerns, if it is known.
    pub peer: Option<PeerId>,
    /// The entry that it concerns, if it is known.
    pub seq: Option<Seq>,
    /// The offset of this entry.
    pub offset: Option<Offset>,
}

impl Damage {
    fn new(part: Part, place: impl Into<String>, why: impl Into<String>) -> Self {
        Self { part, place: place.into(), why: why.into(), peer: None, seq: None, offset: None }
    }

    fn of(mut self, peer: Option<PeerId>, seq: u32) -> Self {
        (self.peer, self.seq) = (peer, Seq::new(u64::from(seq)));
        self
    }
}

/// A report of [`verify`] while it works.
#[derive(Debug)]
pub enum Finding {
    /// The number of entries that will be checked. It comes once, before the entries.
    Total(u64),
    /// So many more entries, with so many bytes, were checked.
    Checked(u64, u64),
    /// A damage.
    Damage(Damage),
}

/// The result of a complete check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// The number of feeds.
    pub feeds: u64,
    /// The number of entries that are intact, including deleted ones.
    pub entries: u64,
    /// The number of damages.
    pub damages: u64,
    /// The number of files of packs that do not belong to the log. This is no damage: a process was killed while it sealed.
    pub orphans: u64,
}

/// Receives the findings. An error ends the check.
type Report<'r> = dyn FnMut(Finding) -> Result<()> + 'r;

/// Checks the log in `dir`, and gives each finding to `report`, until `report` breaks: then the result is `None`. Other
/// processes can use the log at the same time. The state after one commit is checked.
///
/// ```
/// # use scuttleup::{Finding, Log, verify};
/// # use std::ops::ControlFlow;
/// # let dir = std::env::temp_dir().join(format!("scuttleup-doc-verify-{}", std::process::id()));
/// # let log = Log::open_or_create(&dir)?;
/// log.append(b"one")?;
/// drop(log);
/// let verified = verify(&dir, |_| ControlFlow::Continue(()))?.expect("the report does not break");
/// assert_eq!((verified.entries, verified.damages), (1, 0));
/// # std::fs::remove_dir_all(dir).ok();
/// # Ok::<(), scuttleup::Error>(())
/// ```
///
/// # Errors
/// [`Error::NoLog`] if `dir` holds no log; [`Error::NewerFormat`]; errors of the operating system. Damage is no error.
pub fn verify(dir: &Path, mut report: impl FnMut(Finding) -> ControlFlow<()>) -> Result<Option<Verified>> {
    let (mut damages, mut is_ended) = (0, false);
    let verified = check_log(dir, &mut |finding| {
        damages += u64::from(matches!(finding, Finding::Damage(_)));
        is_ended = report(finding).is_break();
        if is_ended { Err(Error::io("the check", ErrorKind::Interrupted.into())) } else { Ok(()) }
    });
    if is_ended { Ok(None) } else { verified.map(|verified| Some(Verified { damages, ..verified })) }
}

fn check_log(dir: &Path, report: &mut Report<'_>) -> Result<Verified> {
    directory::check(dir)?;
    let is_usable = check_files(dir, report)?;
    let _open_once = OpenOnce::new(dir)?;
    state::with_newest(dir, (is_usable, false), report, |state, report| tables::check(dir, state, report))
}

/// Checks what each program checks before it opens the log. Returns whether it can be opened.
fn check_files(dir: &Path, report: &mut Report<'_>) -> Result<bool> {
    let damaged = |name: &str, why: &Error| Damage::new(Part::File, name, why.to_string());
    let is_usable = match data::check(dir) {
        Ok(false) => return Err(Error::NoLog(dir.to_path_buf())),
        Ok(true) => true,
        Err(err @ (Error::Truncated(..) | Error::CommitsLost(_) | Error::Corrupt(_))) => {
            report(Finding::Damage(damaged(data::FILE_NAME, &err)))?;
            false
        }
        Err(err) => return Err(err),
    };
    // Programs of earlier versions have created no such files, and the next writer creates them: their absence is no damage.
    created::exists(dir)?;
    notify::last_commit(dir)?;
    Ok(is_usable)
}
