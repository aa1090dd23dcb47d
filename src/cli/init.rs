//! `init`: make a log.

use anyhow::Result;
use clap::{Arg, ArgMatches, Command};
use scuttleup::{Log, PeerId};

use super::exit::{Exit, Usage};
use super::{Context, bad_peer, signals};

pub fn command() -> Command {
    Command::new("init").about("Make a log (the other writing commands make one on first use, with a random id)").arg(
        Arg::new("id")
            .long("id")
            .value_name("ID")
            .help("Its peer id, unique among all logs that it will ever meet [32 random hex digits]"),
    )
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    let id = args.get_one::<String>("id").map(|id| PeerId::new(id)).transpose().map_err(|err| bad_peer(&err))?;
    if id.as_ref().is_some_and(|id| id.as_str().contains(char::is_control)) {
        return Err(Usage("not a peer id: it holds a control character".into()).into());
    }
    let stop = signals::Stop::on_signal()?;
    let log = Log::create(&context.dir, id)?;
    context.messages.note(&format!("made the log {} with the id {}", context.dir.display(), log.id()));
    Ok(stop.exit().unwrap_or(Exit::Done))
}
