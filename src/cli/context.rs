//! The options that every command takes.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use scuttleup::{Log, Offset};

use crate::cli::exit::Usage;
use crate::cli::report::diagnostics::{self, Diagnostics};

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

    /// Opens the log for writing. If it is a copy and takes a new id, reports this.
    pub fn open(&self) -> Result<Log> {
        self.open_with_label("")
    }

    /// As [`Context::open`]. The report has a label, see [`diagnostics::labelled_error`].
    pub fn open_with_label(&self, label: &str) -> Result<Log> {
        let log = Log::open(&self.dir)?;
        report_if_copy(label, &log);
        Ok(log)
    }

    /// Opens the log. If it does not exist, creates it and reports this.
    pub fn open_or_create(&self) -> Result<Log> {
        self.open_or_create_with_label("")
    }

    /// As [`Context::open_or_create`]. The report has a label, see [`diagnostics::labelled_error`].
    pub fn open_or_create_with_label(&self, label: &str) -> Result<Log> {
        let log = Log::open_or_create(&self.dir)?;
        report_if_copy(label, &log);
        if log.is_new() {
            // A relative path does not say where the log is, and a mistyped one is only seen in full.
            let dir = std::path::absolute(log.dir()).unwrap_or_else(|_| log.dir().to_path_buf());
            self.diagnostics.labelled_note(label, &format!("created a log in {} with the id {}", dir.display(), log.id()));
        }
        Ok(log)
    }

    /// Reports an empty log if stdout is a terminal: its user otherwise sees nothing, and may have named the wrong log.
    pub fn report_if_empty(&self, log: &Log) -> Result<()> {
        if io::stdout().is_terminal() && log.last_offset()? == Offset::ZERO {
            self.diagnostics.note(&format!("the log in {} is empty", log.dir().display()));
        }
        Ok(())
    }
}

/// Reports a copy that has taken a new id, also with -q: this happens once, and the user may have to act.
fn report_if_copy(label: &str, log: &Log) {
    if let Some(old) = log.copy_of() {
        let text = format!(
            "this log was copied, restored from a backup, or moved from another file system: new entries go to the feed of the \
             new id {}, and the feed of {old} stays as it is",
            log.id()
        );
        diagnostics::labelled_error(label, &text);
    }
}

/// --log, else $SCUTTLEUP_LOG, else `scuttleup` in the data directory of the user (XDG Base Directory Specification).
pub fn log_dir(option: Option<&PathBuf>) -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
    // The specification requires that a relative path is ignored.
    let data_home = || variable("XDG_DATA_HOME").filter(|path| path.is_absolute());
    let home = || variable("HOME").map(|home| home.join(".local/share"));
    let default = || data_home().or_else(home).map(|data| data.join("scuttleup"));
    let dir = option.cloned().or_else(|| variable("SCUTTLEUP_LOG")).or_else(default);
    let dir = dir.ok_or_else(|| Usage("no directory for the log: use --log DIR, or set SCUTTLEUP_LOG or HOME".into()))?;
    // A unit of systemd, an .env file and a word such as --log=~/x pass the character on. A directory `~` is never meant.
    if dir.as_os_str().as_bytes().starts_with(b"~") {
        let source = if option.is_some() { "--log" } else { "SCUTTLEUP_LOG" };
        return Err(Usage(format!(
            "the directory {} of {source} begins with ~, and no shell has replaced it: use an absolute path or $HOME; \
             ./~ names a directory of this name",
            dir.display()
        ))
        .into());
    }
    Ok(dir)
}
