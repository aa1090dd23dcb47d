//! `repair`: fetch lost entries again from another log.
//!
//! If only records of entries are damaged, a temporary log in the directory of the log receives the lost entries, and they are
//! put back into their places. If anything else is damaged, the log is not changed, and a new log is built beside it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{ArgMatches, Command};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use scuttleup::ingest::Quota;
use scuttleup::repair::{self, Restored};
use scuttleup::{Error, Finding, Log, Mode, Options, PeerGlobs, PeerId, Seq, Step, ndjson, verify};

use crate::cli::args::{command_arg, entry_bytes, entry_bytes_arg};
use crate::cli::child;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::help::epilogue;
use crate::cli::io::output::Output;
use crate::cli::io::signals::Stop;
use crate::cli::report::diagnostics::counted;
use crate::cli::report::errors;
use crate::cli::report::progress::{Progress, Total};
use crate::cli::report::session::{self, Format, Report};
use crate::cli::report::transfer::Transfer;

/// The name of the folder for the temporary log.
const WORKPLACE: &str = "repair";
/// The number of feeds that one session fetches: a session takes so many patterns.
const FEEDS_AT_ONCE: usize = 64;

pub fn command() -> Command {
    Command::new("repair").about("Fetch lost entries again from another log; see verify").defer(|command| {
        command
            .arg(entry_bytes_arg())
            .arg(command_arg("Run this program and replicate over its stdin and stdout").required(true))
            .after_help(epilogue("scuttleup-repair", "scuttleup repair -- ssh host scuttleup replicate"))
    })
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    let words: Vec<OsString> = args.get_many("command").unwrap_or_default().cloned().collect();
    let stop = Stop::on_signal()?;
    let repair = Repair { context, words: &words, entry_bytes_max: entry_bytes(args), stop: &stop, output: Output::new() };
    let Some(found) = repair.find()? else { return Ok(stop.exit().unwrap_or(Exit::Error)) };
    let ended = match found {
        Found::Nothing => {
            // A process that works in the folder removes it.
            remove_leftovers(&context.dir)?;
            context.diagnostics.note("the log has no damage");
            Exit::Done
        }
        Found::LostEntries(lost) => repair.restore(&lost)?,
        Found::Other => repair.rebuild()?,
    };
    Ok(if ended == Exit::Done { ended } else { stop.exit().unwrap_or(ended) })
}

/// The damages of a log.
enum Found {
    Nothing,
    /// Only the records of these entries, in the order of the seqs.
    LostEntries(BTreeMap<PeerId, Vec<Seq>>),
    Other,
}

struct Repair<'r> {
    context: &'r Context,
    words: &'r [OsString],
    entry_bytes_max: usize,
    stop: &'r Stop,
    output: Output,
}

impl Repair<'_> {
    /// Checks the log. Returns `None` if a signal came first.
    fn find(&self) -> Result<Option<Found>> {
        let progress = Progress::new(self.context.diagnostics, self.stop);
        let (mut lost, mut has_other) = (BTreeMap::<PeerId, Vec<Seq>>::new(), false);
        let verified = verify(&self.context.dir, |finding| {
            match finding {
                Finding::Total(entries) => progress.set_total(Total::Entries(entries)),
                Finding::Checked(entries, bytes) => progress.add(entries, bytes),
                Finding::Damage(damage) => match (damage.peer, damage.seq) {
                    (Some(peer), Some(seq)) if damage.part == scuttleup::Part::Entry => lost.entry(peer).or_default().push(seq),
                    _ => has_other = true,
                },
            }
            if self.stop.exit().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(verified.map(|_| match (has_other, lost.is_empty()) {
            (true, _) => Found::Other,
            (false, true) => Found::Nothing,
            (false, false) => Found::LostEntries(lost),
        }))
    }

    /// Puts lost entries back into their places.
    fn restore(&self, lost: &BTreeMap<PeerId, Vec<Seq>>) -> Result<Exit> {
        let log = self.context.open()?;
        let Some(workplace) = Workplace::new(log.dir())? else {
            bail!("another process repairs this log: wait until it ends");
        };
        let (mut repaired, mut differing, mut session) = (0, 0, Exit::Done);
        let feeds: Vec<_> = lost.iter().collect();
        for group in feeds.chunks(FEEDS_AT_ONCE) {
            let received = workplace.create_log()?;
            for (peer, seqs) in group {
                log.copy_before(peer, seqs[0], &received)?;
            }
            let globs: Vec<String> = group.iter().map(|(peer, _)| glob_of(peer)).collect();
            let allowed = PeerGlobs::new(globs.iter().map(String::as_str))?;
            session = self.receive(&received, Some(&allowed));
            for (peer, seqs) in group {
                log.restore(peer, seqs, &received, |seq, restored| {
                    repaired += u64::from(restored == Restored::Done);
                    differing += u64::from(restored == Restored::Differs);
                    let result = match restored {
                        Restored::Done => "repaired",
                        Restored::Missing => "missing",
                        Restored::Differs => "differs",
                    };
                    self.print(peer, u64::from(seq.get()), result)
                        .map_err(|err| Error::Io(err.to_string(), ErrorKind::Other.into()))
                })?;
            }
            if self.stop.exit().is_some() {
                break;
            }
        }
        workplace.remove()?;
        let total: u64 = lost.values().map(|seqs| seqs.len() as u64).sum();
        let left = total - repaired;
        self.context
            .diagnostics
            .note(&format!("repaired {repaired} of {total} lost entries{}", if left == 0 { "" } else { ADVICE }));
        Ok(exit_of(left == 0, differing, session))
    }

    /// Builds a new log beside the damaged one: from what can be read of it, and from the remote.
    fn rebuild(&self) -> Result<Exit> {
        let to = beside(&self.context.dir)?;
        // Of two processes that repair the log, one creates the directory.
        match DirBuilder::new().mode(0o700).create(&to) {
            Err(err) if err.kind() == ErrorKind::AlreadyExists => {
                bail!("{} exists already: remove it or rename it, and run it again", to.display())
            }
            created => created.map_err(|err| Error::io(format!("{} cannot be created", to.display()), err))?,
        }
        let rebuilt = self.rebuild_in(&to);
        if rebuilt.is_err() {
            self.context.diagnostics.note(&format!("the new log in {} is not complete: {AGAIN}", to.display()));
        }
        rebuilt
    }

    fn rebuild_in(&self, to: &Path) -> Result<Exit> {
        let (dir, diagnostics) = (&self.context.dir, self.context.diagnostics);
        let id = repair::id(dir)?;
        let log = Log::create(to, id.clone())?;
        diagnostics.note(&format!("the damage is not only in entries: building a new log in {}", to.display()));
        let read = repair::salvage(dir, &log)?;
        let session = self.receive(&log, None);
        // Entries that follow a lost one can be added now.
        let read = read + repair::salvage(dir, &log)?;
        // Whether the local feed is whole, if the damaged log says so.
        let (mut missing, mut differing, mut local) = (0, 0, None);
        let knows_all = repair::compare(dir, &log, |feed| {
            if id.as_ref() == Some(&feed.peer) {
                local = Some(feed.has >= feed.head && !feed.differs);
            }
            let result = match () {
                () if feed.differs => "differs",
                () if feed.has < feed.head => "missing",
                () => return Ok(()),
            };
            differing += u64::from(feed.differs);
            missing += u64::from(feed.head.saturating_sub(feed.has));
            let first = if feed.differs { feed.head } else { feed.has + 1 };
            let printed = (first..=feed.head).try_for_each(|seq| self.print(&feed.peer, u64::from(seq), result));
            printed.map_err(|err| Error::Io(err.to_string(), ErrorKind::Other.into()))
        })?;
        if id.is_none() {
            diagnostics.note(&format!("the id of the damaged log cannot be read: the new log has the new id {}", log.id()));
        } else if !local.unwrap_or(knows_all) {
            self.take_new_id(&log)?;
        }
        let info = log.info()?;
        drop(log);
        diagnostics.note(&format!(
            "the new log in {} holds {} of {}, {read} of them are from the damaged log",
            to.display(),
            counted(info.entries, "entry", "entries"),
            counted(info.feeds, "feed", "feeds"),
        ));
        let is_whole = missing == 0 && knows_all;
        let swap = format!("move the damaged log in {} away, and move the new log to its place", dir.display());
        let lack = if knows_all {
            format!("{} missing", counted(missing, "entry is", "entries are"))
        } else {
            "the heads of the damaged log cannot be read, so entries can be missing".into()
        };
        diagnostics.note(&match session {
            _ if is_whole => swap,
            Exit::Done if self.stop.exit().is_none() => {
                format!("{lack}: if another log holds more of them, {AGAIN} with that log; if not, {swap}")
            }
            _ => format!("{lack}, because the session did not end: {AGAIN}"),
        });
        Ok(exit_of(is_whole, differing, session))
    }

    /// Gives the new log a new id: an entry of its local feed may be missing, and an append would then fork the feed.
    fn take_new_id(&self, log: &Log) -> Result<()> {
        let mut writer = log.writer()?;
        let new = writer.renew_id()?;
        writer.commit()?;
        let why = "the last entries of the local feed may be missing, and an append would fork it";
        self.context.diagnostics.note(&format!("{why}: new entries go to the feed of the new id {new}"));
        Ok(())
    }

    /// Receives entries from COMMAND. A session that fails is reported; what it has received is used.
    fn receive(&self, log: &Log, allowed: Option<&PeerGlobs>) -> Exit {
        let diagnostics = self.context.diagnostics;
        let transfer = Transfer::new(diagnostics, self.stop, "");
        let step = |step: Step<'_>| transfer.step(step);
        let options = Options {
            mode: Mode::Pull,
            once: true,
            entry_bytes_max: self.entry_bytes_max,
            allowed,
            quota: Quota::NONE,
            progress: Some(&step),
            stop: Some(self.stop.as_fd()),
            ..Options::default()
        };
        match child::with_command(log, self.words, options, self.stop, &transfer) {
            Err(err) => {
                drop(transfer);
                errors::report("", &err)
            }
            Ok((outcome, failed)) => {
                drop(transfer);
                let failed = failed.as_ref().map(|failed| failed.text.as_str());
                let exit = session::exit_of(&outcome, failed, false);
                let report = Report { format: Format::Text, diagnostics, label: "", serves: false };
                // The remote may hold other feeds: this session refuses them on purpose.
                let exit = if exit == Exit::Refused && allowed.is_some() { Exit::Done } else { exit };
                if exit != Exit::Done {
                    report.print(&outcome, failed, exit).ok();
                }
                exit
            }
        }
    }

    /// Prints what became of an entry.
    fn print(&self, peer: &PeerId, seq: u64, result: &str) -> Result<()> {
        let mut line = b"{\"peer\":".to_vec();
        ndjson::put_name(&mut line, peer.as_str());
        line.extend_from_slice(format!(",\"seq\":{seq},\"result\":\"{result}\"}}\n").as_bytes());
        self.output.write(&line)
    }
}

/// The advice if entries are still missing.
const ADVICE: &str = ": run it again with another log that holds them, `scuttleup verify` names them";

/// The advice if a new log is not used.
const AGAIN: &str = "remove the new log, and run repair again";

/// The exit of the command: `differing` feeds or entries of the remote have other bytes, and the session has ended with `session`.
fn exit_of(is_whole: bool, differing: u64, session: Exit) -> Exit {
    match session {
        _ if differing > 0 => Exit::Fork,
        _ if is_whole => Exit::Done,
        Exit::Done => Exit::Incomplete,
        session => session,
    }
}

/// A pattern that matches the id, and perhaps similar ones.
fn glob_of(peer: &PeerId) -> String {
    peer.as_str().replace(['*', '?', '['], "?")
}

/// The directory of the new log, beside the damaged one.
fn beside(dir: &Path) -> Result<PathBuf> {
    let dir = fs::canonicalize(dir).map_err(|err| Error::io(format!("{} cannot be opened", dir.display()), err))?;
    let Some(name) = dir.file_name() else { bail!("{} has no place beside it for a new log", dir.display()) };
    let mut name = name.to_owned();
    name.push(".repaired");
    Ok(dir.with_file_name(name))
}

/// Removes the folder that a killed repair has left in the directory `log`: it holds bytes of entries. Returns false if another
/// process repairs the log now.
pub fn remove_leftovers(log: &Path) -> Result<bool> {
    if log.join(WORKPLACE).symlink_metadata().is_err() {
        return Ok(true);
    }
    let workplace = Workplace::new(log)?;
    workplace.map_or(Ok(false), |workplace| workplace.remove().map(|()| true))
}

/// The folder for temporary logs. One process at a time uses it. It is removed at the end; a killed process leaves it, and the
/// next one empties it.
struct Workplace {
    dir: PathBuf,
    is_removed: bool,
    _lock: FolderLock,
}

/// The lock on the folder, until this value is dropped.
struct FolderLock(Option<Flock<File>>);

impl Drop for FolderLock {
    fn drop(&mut self) {
        // To drop a lock that cannot be released is a panic. The kernel releases it when the process ends.
        if let Some(Err((lock, _))) = self.0.take().map(Flock::unlock) {
            std::mem::forget(lock);
        }
    }
}

impl Workplace {
    /// Returns `None` if another process uses it.
    fn new(log: &Path) -> Result<Option<Self>> {
        let dir = log.join(WORKPLACE);
        let fail = |doing: &str, err| Error::io(format!("{} cannot be {doing}", dir.display()), err);
        loop {
            // A symbolic link could lead to files that must not be removed, and a stranger could lock a folder of the stranger.
            repair::create_folder(log, WORKPLACE)?;
            let file = match File::open(&dir) {
                // The process that used it has just removed it.
                Err(err) if err.kind() == ErrorKind::NotFound => continue,
                opened => opened.map_err(|err| fail("opened", err))?,
            };
            let opened = file.metadata().map_err(|err| fail("opened", err))?;
            let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
                locked => locked.map_err(|(_, err)| fail("locked", err.into()))?,
            };
            // It may have been removed, and created again, before it was locked.
            if dir.symlink_metadata().is_ok_and(|now| (now.dev(), now.ino()) == (opened.dev(), opened.ino())) {
                return Ok(Some(Self { dir, is_removed: false, _lock: FolderLock(Some(lock)) }));
            }
        }
    }

    /// A new log, in place of the one before.
    fn create_log(&self) -> Result<Log> {
        let dir = self.dir.join("log");
        match fs::remove_dir_all(&dir) {
            Err(err) if err.kind() == ErrorKind::NotFound => {}
            removed => removed.map_err(|err| Error::io(format!("{} cannot be removed", dir.display()), err))?,
        }
        Ok(Log::create(&dir, None)?)
    }

    fn remove(mut self) -> Result<()> {
        self.is_removed = true;
        let removed = fs::remove_dir_all(&self.dir);
        removed.map_err(|err| Error::io(format!("{} cannot be removed", self.dir.display()), err).into())
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        // Once it is removed, another process may have created it again.
        if !self.is_removed {
            fs::remove_dir_all(&self.dir).ok();
        }
    }
}
