//! `init`: create a log.

use anyhow::Result;
use clap::{Arg, ArgMatches, Command};
use scuttleup::Log;

use crate::cli::args::new_peer_id;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::help::epilogue;
use crate::cli::io::signals::Stop;

pub fn command() -> Command {
    Command::new("init").about("Create a log; append, write and replicate do it on first use").defer(|command| {
        let id = Arg::new("id").long("id").value_name("ID");
        command
            .arg(id.help("The peer id of the log, which no other log may have [default: 32 random hex digits]"))
            .after_help(epilogue("scuttleup-init", "scuttleup --log ~/notes init --id \"notes of $(hostname)\""))
    })
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    let id = args.get_one::<String>("id").map(|id| new_peer_id(id)).transpose()?;
    let stop = Stop::on_signal()?;
    let log = Log::create(&context.dir, id)?;
    context.diagnostics.note(&format!("created log {} with id {}", context.dir.display(), log.id()));
    Ok(stop.exit().unwrap_or(Exit::Done))
}
