//! `completions`: print the script by which a shell completes command lines. The script runs this program for each line, so that feeds
//! and cursors of the log are completed too.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command, ValueHint};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter};
use clap_complete::env::Shells;
use scuttleup::Log;

use crate::cli::context::{Context, log_dir};
use crate::cli::exit::{Exit, Usage};
use crate::cli::help::epilogue;
use crate::cli::io::output::Output;

/// If this environment variable names a shell, the program completes the line in its arguments.
const VARIABLE: &str = "SCUTTLEUP_COMPLETE";
/// The end of the script for zsh. In a directory of `fpath`, zsh runs the script as the function `_scuttleup` at the first Tab key, and
/// expects candidates from this run.
const ZSH_FIRST_RUN: &[u8] = b"if [ \"$funcstack[1]\" = _scuttleup ]; then _clap_dynamic_completer_scuttleup \"$@\"; fi\n";
/// The maximum number of feeds that are offered.
const FEEDS_MAX: usize = 1000;
/// The other characters of a word that no shell interprets.
const PLAIN: &str = "._-+@%,/~";

pub fn command() -> Command {
    Command::new("completions").about("Print the script for the Tab key in bash, zsh or fish").defer(|command| {
        let shells = PossibleValuesParser::new(["bash", "zsh", "fish"]);
        let shell = Arg::new("shell").value_name("SHELL").required(true).hide_possible_values(true).value_parser(shells);
        command.arg(shell.help("bash, zsh or fish")).after_help(epilogue(
            "scuttleup-completions",
            "scuttleup completions bash > ~/.local/share/bash-completion/completions/scuttleup",
        ))
    })
}

pub fn run(_context: &Context, args: &ArgMatches) -> Result<Exit> {
    let name: &String = args.get_one("shell").expect("required");
    let shells = Shells::builtins();
    let shell = shells.completer(name).ok_or_else(|| Usage(format!("no completions for the shell {name}")))?;
    // The script runs the program by the name by which it was run now.
    let program = PathBuf::from(std::env::args_os().next().unwrap_or_else(|| "scuttleup".into()));
    let program = if program.components().count() > 1 { std::path::absolute(&program)? } else { program };
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, "scuttleup", "scuttleup", &program.to_string_lossy(), &mut script)?;
    if name == "zsh" {
        script.extend_from_slice(ZSH_FIRST_RUN);
    }
    Output::new().write(&script)?;
    Ok(Exit::Done)
}

/// Completes a line if a shell asks for it. Returns false if this is a usual run. `command` makes the parser.
pub fn answer(command: fn() -> Command) -> bool {
    let with_completers = || {
        let mut command = command();
        // The arguments of the commands are deferred until now.
        command.build();
        complete_values(command, &[])
    };
    let current_dir = std::env::current_dir().ok();
    let completed = CompleteEnv::with_factory(with_completers)
        .var(VARIABLE)
        .shells(Shells::builtins())
        .try_complete(std::env::args_os(), current_dir.as_deref());
    // A shell shows no message while it completes a line.
    completed.unwrap_or(true)
}

/// Adds completers to the arguments that name a feed or a cursor. `above` are the names of the commands above this one.
fn complete_values(command: Command, above: &[&str]) -> Command {
    let name = command.get_name().to_owned();
    let is_cursor = above.last() == Some(&"cursor");
    let path = [above, &[name.as_str()]].concat();
    let command = command.mut_subcommands(|command| complete_values(command, &path));
    command.mut_args(|arg| match arg.get_id().as_str() {
        "peer" | "allow-peer" | "clear-fork" => arg.add(ArgValueCompleter::new(peers)),
        "cursor" => arg.add(ArgValueCompleter::new(cursors)),
        "name" if is_cursor => arg.add(ArgValueCompleter::new(cursors)),
        _ if arg.get_value_hint() == ValueHint::AnyPath => arg.add(ArgValueCompleter::new(files)),
        _ => arg,
    })
}

/// The log that the line names. There is no message if it cannot be opened.
fn log() -> Option<Log> {
    let line: Vec<OsString> = std::env::args_os().skip_while(|arg| arg != "--").skip(1).collect();
    let dir = log_dir(named_log(&line).as_ref()).ok()?;
    Log::open_read_only(dir).ok()
}

/// The value of --log in a line. The shell passes the words as they were typed.
fn named_log(line: &[OsString]) -> Option<PathBuf> {
    let mut words = line.iter().take_while(|word| *word != "--").filter_map(|word| word.to_str());
    let mut dir = None;
    while let Some(word) = words.next() {
        if word == "--log" {
            // Bash separates --log=DIR into three words.
            dir = words.next().map(|next| if next == "=" { words.next().unwrap_or_default() } else { next });
        } else if let Some(value) = word.strip_prefix("--log=") {
            dir = Some(value);
        }
    }
    let dir = dir?.trim_matches(['"', '\'']);
    match (dir.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => Some(PathBuf::from(home).join(rest)),
        _ => Some(dir.into()),
    }
}

/// Whether a shell takes a word as it is. An id of another log, or the name of a file, could contain a command.
fn is_plain(word: &str) -> bool {
    word.starts_with(char::is_alphanumeric) && has_plain_characters(word)
}

fn has_plain_characters(word: &str) -> bool {
    word.chars().all(|c| c.is_alphanumeric() || PLAIN.contains(c))
}

/// The files whose paths begin with `current`.
fn files(current: &OsStr) -> Vec<CompletionCandidate> {
    let is_plain_path = |path: &str| {
        let starts_plain = path.starts_with(|c: char| c.is_alphanumeric() || "/._+".contains(c)) || path.starts_with("~/");
        starts_plain && has_plain_characters(path)
    };
    let found = PathCompleter::any().complete(current).into_iter();
    found.filter(|candidate| candidate.get_value().to_str().is_some_and(is_plain_path)).collect()
}

/// The feeds of the log whose ids begin with `current`.
fn peers(current: &OsStr) -> Vec<CompletionCandidate> {
    let (Some(current), Some(log)) = (current.to_str(), log()) else { return Vec::new() };
    let mut found = Vec::new();
    if log.head(current).is_ok_and(|head| head > 0) {
        found.push(current.to_owned());
    }
    let given = log.feeds_after(Some(current), FEEDS_MAX, |peer, _, _| {
        if peer.starts_with(current) {
            found.push(peer.to_owned());
        }
    });
    if given.is_err() {
        return Vec::new();
    }
    found.into_iter().filter(|peer| is_plain(peer)).map(CompletionCandidate::new).collect()
}

/// The cursors of the log whose names begin with `current`.
fn cursors(current: &OsStr) -> Vec<CompletionCandidate> {
    let (Some(current), Some(log)) = (current.to_str(), log()) else { return Vec::new() };
    let names = log.cursors().unwrap_or_default().into_iter().map(|state| state.name);
    names.filter(|name| name.starts_with(current) && is_plain(name)).map(CompletionCandidate::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_a_line_and_words_that_a_shell_takes_as_they_are() {
        let home = std::env::var("HOME").unwrap_or_default();
        let in_home = format!("{home}/x");
        for (line, expected) in [
            ("scuttleup read --peer", None),
            ("scuttleup --log a read", Some("a")),
            ("scuttleup --log=a read", Some("a")),
            ("scuttleup read --log = a --peer", Some("a")),
            ("scuttleup --log \"a\" read", Some("a")),
            ("scuttleup --log ~/x read", Some(in_home.as_str())),
            ("scuttleup --log a replicate -- scuttleup --log b", Some("a")),
            ("scuttleup --log", None),
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(named_log(&words), expected.map(PathBuf::from), "{line}");
        }
        for (word, expected) in [
            ("web-1.example~x", true),
            ("日本", true),
            ("", false),
            ("-x", false),
            ("~x", false),
            ("a b", false),
            ("a;b", false),
            ("$(x)", false),
            ("a:b", false),
        ] {
            assert_eq!(is_plain(word), expected, "{word}");
        }
    }
}
