//! The command line: one file a subcommand, each with its help, its arguments and its run.

mod append;
mod del;
mod entry;
pub mod exit;
mod heads;
mod id;
mod info;
mod init;
mod input;
mod message;
mod outcome;
mod output;
mod partner;
mod progress;
mod read;
mod replicate;
mod signals;
mod transfer;
mod watch;
mod write;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use scuttleup::{ENTRY_BYTES_MAX, Error, PeerId, Seq};

use self::exit::{Exit, Usage};
use self::message::Messages;

/// One subcommand.
struct Subcommand {
    name: &'static str,
    command: fn() -> Command,
    run: fn(&Context, &ArgMatches) -> Result<Exit>,
}

const SUBCOMMANDS: [Subcommand; 11] = [
    Subcommand { name: "init", command: init::command, run: init::run },
    Subcommand { name: "append", command: append::command, run: append::run },
    Subcommand { name: "read", command: read::command, run: read::run },
    Subcommand { name: "watch", command: watch::command, run: watch::run },
    Subcommand { name: "entry", command: entry::command, run: entry::run },
    Subcommand { name: "del", command: del::command, run: del::run },
    Subcommand { name: "write", command: write::command, run: write::run },
    Subcommand { name: "heads", command: heads::command, run: heads::run },
    Subcommand { name: "replicate", command: replicate::command, run: replicate::run },
    Subcommand { name: "id", command: id::command, run: id::run },
    Subcommand { name: "info", command: info::command, run: info::run },
];

/// What every subcommand needs.
pub struct Context {
    pub dir: PathBuf,
    pub messages: Messages,
}

impl Context {
    pub fn new(args: &ArgMatches) -> Result<Self> {
        Ok(Self { dir: log_dir(args.get_one("log"))?, messages: Messages::new(args.get_flag("quiet")) })
    }
}

/// --log, else $SCUTTLEUP_LOG, else in the data directory of the user (XDG base directories).
fn log_dir(given: Option<&PathBuf>) -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
    let data = || variable("XDG_DATA_HOME").filter(|path| path.is_absolute());
    let home = || variable("HOME").map(|home| home.join(".local/share"));
    let default = || data().or_else(home).map(|data| data.join("scuttleup"));
    let dir = given.cloned().or_else(|| variable("SCUTTLEUP_LOG")).or_else(default);
    dir.ok_or_else(|| Usage("no log is named: use --log DIR, or set SCUTTLEUP_LOG or HOME".into()).into())
}

fn command(has: impl Fn(&Subcommand) -> bool) -> Command {
    Command::new("scuttleup")
        .version(env!("CARGO_PKG_VERSION"))
        .about("An append-only log that syncs over any pipe")
        .arg(
            Arg::new("log")
                .long("log")
                .value_name("DIR")
                .global(true)
                .value_parser(value_parser!(PathBuf))
                .help("The log's directory [$SCUTTLEUP_LOG; ~/.local/share/scuttleup]"),
        )
        .arg(Arg::new("quiet").short('q').long("quiet").global(true).action(ArgAction::SetTrue).help("Say nothing but errors"))
        .subcommand_required(true)
        .subcommands(SUBCOMMANDS.iter().filter(|subcommand| has(subcommand)).map(|subcommand| (subcommand.command)()))
}

pub fn parse() -> Result<ArgMatches, clap::Error> {
    // Only what is named is built: of a start of 0.85 ms the others would take 0.07. Help and errors need them all.
    let named = |subcommand: &Subcommand| std::env::args_os().any(|arg| arg == subcommand.name);
    command(named).try_get_matches().or_else(|_| command(|_| true).try_get_matches())
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    let Some((name, args)) = args.subcommand() else { unreachable!("clap requires a subcommand") };
    let subcommand = SUBCOMMANDS.iter().find(|subcommand| subcommand.name == name);
    subcommand.map_or(Ok(Exit::Usage), |subcommand| (subcommand.run)(context, args))
}

/// PEER and SEQ, for the commands that name one entry.
fn place_args() -> [Arg; 2] {
    [
        Arg::new("peer").value_name("PEER").required(true).help("Whose feed"),
        Arg::new("seq").value_name("SEQ").required(true).value_parser(value_parser!(u64)).help("The entry's number in it"),
    ]
}

fn place<'a>(args: &'a ArgMatches) -> Result<(&'a str, Seq)> {
    let (peer, seq): (&'a String, u64) = (args.get_one("peer").expect("required"), *args.get_one("seq").expect("required"));
    let seq = Seq::new(seq).ok_or_else(|| Usage(format!("there is no entry {seq}: they are numbered 1 to 4294967295")))?;
    Ok((peer, seq))
}

/// A shown form of an id that came from the command line.
fn shown(peer: &str) -> String {
    PeerId::new(peer).map_or_else(|_| peer.to_owned(), |peer| peer.to_string())
}

fn not_here(peer: &str, seq: Seq) -> anyhow::Error {
    anyhow::anyhow!("entry {seq} of {} is not here: see `scuttleup heads` for what is", shown(peer))
}

/// --entry-bytes-max, for the commands that store entries.
fn entry_bytes_arg() -> Arg {
    Arg::new("entry-bytes-max")
        .long("entry-bytes-max")
        .value_name("N")
        .value_parser(value_parser!(u64).range(1..=1 << 30))
        .help("The longest entry that is taken, in bytes, up to 1 GiB [67108864]")
}

fn entry_bytes(args: &ArgMatches) -> usize {
    args.get_one("entry-bytes-max").map_or(ENTRY_BYTES_MAX, |&bytes: &u64| bytes as usize)
}

/// The error for a peer id that was given on the command line.
fn bad_peer(err: &Error) -> anyhow::Error {
    Usage(err.to_string()).into()
}
