//! The options that every command takes.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches, value_parser};

use crate::cli::exit::Usage;
use crate::cli::report::diagnostics::Diagnostics;

/// The position of these options in the help: after the options of the command.
const LAST: usize = 100;

/// The options that every command takes, before its name or after it.
pub fn global_args() -> [Arg; 2] {
    let log = Arg::new("log").long("log").global(true).display_order(LAST).value_name("DIR").value_parser(value_parser!(PathBuf));
    let quiet = Arg::new("quiet").short('q').long("quiet").global(true).display_order(LAST).action(ArgAction::SetTrue);
    [
        log.help("The directory of the log [env: SCUTTLEUP_LOG] [default: ~/.local/share/scuttleup]"),
        quiet.help("Print errors only"),
    ]
}

/// The values of [`global_args`].
pub struct Context {
    /// The directory of the log.
    pub dir: PathBuf,
    pub diagnostics: Diagnostics,
}

impl Context {
    pub fn new(args: &ArgMatches) -> Result<Self> {
        Ok(Self { dir: log_dir(args.get_one("log"))?, diagnostics: Diagnostics::new(args.get_flag("quiet")) })
    }
}

/// --log, else $SCUTTLEUP_LOG, else `scuttleup` in the data directory of the user (XDG Base Directory Specification).
fn log_dir(option: Option<&PathBuf>) -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
    // The specification requires that a relative path is ignored.
    let data_home = || variable("XDG_DATA_HOME").filter(|path| path.is_absolute());
    let home = || variable("HOME").map(|home| home.join(".local/share"));
    let default = || data_home().or_else(home).map(|data| data.join("scuttleup"));
    let dir = option.cloned().or_else(|| variable("SCUTTLEUP_LOG")).or_else(default);
    dir.ok_or_else(|| Usage("no directory for the log: use --log DIR, or set SCUTTLEUP_LOG or HOME".into()).into())
}
