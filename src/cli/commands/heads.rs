//! `heads`: print the head of each feed, or clear the fork mark of one feed.

use anyhow::{Result, bail};
use clap::{Arg, ArgMatches, Command};
use scuttleup::{Log, PeerId, ndjson};

use crate::cli::args::invalid_peer_id;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::help::epilogue;
use crate::cli::io::output::{Output, WRITE_BYTES};
use crate::cli::io::signals::{self, Stop};

pub fn command() -> Command {
    Command::new("heads")
        .about("Print {\"peer\",\"seq\"} for each feed; \"own\":true marks the local feed, \"fork\":true a fork")
        .defer(|command| {
            let example = "scuttleup heads | ssh host scuttleup read --since-heads - | scuttleup write";
            let clear_fork = Arg::new("clear-fork")
                .long("clear-fork")
                .value_name("PEER")
                .help("Print nothing: remove the fork mark of this feed; the next fork that is found marks it again");
            command.arg(clear_fork).after_help(epilogue("scuttleup-heads", example))
        })
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    if let Some(peer) = args.get_one::<String>("clear-fork") {
        return clear_fork(context, peer);
    }
    signals::exit_on_signal()?;
    let log = Log::open_read_only(&context.dir)?;
    context.report_if_empty(&log)?;
    let heads = log.heads()?;
    // The id is read after the heads. Otherwise, if the log takes a new id in between, its old feed would be marked as the local
    // feed.
    let (local, forks) = (log.local_id()?, log.forks()?);
    let output = Output::bulk();
    let mut lines = Vec::new();
    for (peer, seq) in heads.iter() {
        ndjson::put_head(&mut lines, peer, seq, *peer == local, forks.contains_key(peer));
        if lines.len() >= WRITE_BYTES {
            output.write(&lines)?;
            lines.clear();
        }
    }
    output.write(&lines)?;
    Ok(Exit::Done)
}

/// Clears the fork mark of a feed.
fn clear_fork(context: &Context, peer: &str) -> Result<Exit> {
    let stop = Stop::on_signal()?;
    let peer = PeerId::new(peer).map_err(|err| invalid_peer_id(&err))?;
    let log = Log::open(&context.dir)?;
    let mut writer = log.writer()?;
    if writer.clear_fork(&peer)?.is_none() {
        bail!("the feed of {peer} has no fork mark: `scuttleup heads` prints the marked feeds with \"fork\":true");
    }
    writer.commit()?;
    Ok(stop.exit().unwrap_or(Exit::Done))
}
