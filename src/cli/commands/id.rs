//! `id`: print the peer id of the log, give it a new one, or keep it after a move.

use anyhow::{Result, bail};
use clap::{Arg, ArgMatches, Command};
use scuttleup::{Log, PeerId};

use crate::cli::args::{flag, new_peer_id};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, OutputClosed};
use crate::cli::help::epilogue;
use crate::cli::io::output::Output;
use crate::cli::io::signals::{self, Stop};
use crate::cli::report::{diagnostics, errors};

pub fn command() -> Command {
    Command::new("id").about("Print the peer id of the log, give it a new one, or keep it").defer(|command| {
        let new = Arg::new("new").long("new").value_name("ID").num_args(0..=1).conflicts_with("keep");
        command
            .arg(new.help("Give the log this id, or a random one: new entries go to a new feed"))
            .arg(flag("keep", "Keep the id: the log was moved or restored to this directory, and no other copy of it is used"))
            .after_help(epilogue("scuttleup-id", "scuttleup read --peer \"$(scuttleup id)\""))
    })
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    if args.contains_id("new") {
        let id = args.get_one::<String>("new").map(|id| new_peer_id(id)).transpose()?;
        return changed(|| renew(context, id.as_ref()));
    }
    if args.get_flag("keep") {
        return changed(|| Ok(Log::open_moved(&context.dir)?.local_id()?));
    }
    signals::exit_on_signal()?;
    let log = Log::open_read_only(&context.dir)?;
    if log.is_displaced()? {
        context.diagnostics.note(
            "this log was copied, restored from a backup, or moved from another file system: the next command that writes gives \
             it a new id; if no other copy of it is used any more, run `scuttleup id --keep` before",
        );
    }
    print(log.id())
}

/// Gives the log the new id `id`, or one that is made for it.
fn renew(context: &Context, id: Option<&PeerId>) -> Result<PeerId> {
    let log = context.open()?;
    let mut writer = log.writer()?;
    match id {
        Some(id) if log.local_id()? == *id => bail!("this log already has the id {id}: choose an id that no log has had"),
        Some(id) => writer.set_id(id)?,
        // A copy has taken a new id when it was opened.
        None if log.copy_of().is_some() => {}
        None => drop(writer.renew_id()?),
    }
    writer.commit()?;
    Ok(log.local_id()?)
}

/// Runs `change` to its end, also after a signal, and prints the id that it returns. An error of stdout does not say that the
/// change failed.
fn changed(change: impl FnOnce() -> Result<PeerId>) -> Result<Exit> {
    let stop = Stop::on_signal()?;
    let id = change()?;
    match print(&id) {
        Err(err) if !err.is::<OutputClosed>() => {
            diagnostics::error(&format!("{}; the log has the id {id} now", errors::message(&err)));
            Ok(Exit::of_error(&err))
        }
        printed => Ok(stop.exit().unwrap_or(printed?)),
    }
}

fn print(id: &PeerId) -> Result<Exit> {
    Output::new().write(format!("{id}\n").as_bytes())?;
    Ok(Exit::Done)
}
