//! The command line of scuttleup: parse, run, map the outcome to an exit code.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args = match cli::parse() {
        Ok(args) => args,
        Err(err) => return cli::exit::of_usage(&err),
    };
    let context = cli::Context::new(&args);
    let outcome = context.and_then(|context| cli::run(&context, &args));
    cli::exit::of_outcome(outcome)
}
