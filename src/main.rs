//! The command line of scuttleup: parse, run, exit code.

mod cli;

use std::process::ExitCode;

use cli::report::errors;

fn main() -> ExitCode {
    errors::explain_panics();
    if cli::complete() {
        return ExitCode::SUCCESS;
    }
    let args = match cli::parse() {
        Ok(args) => args,
        Err(answer) => return errors::conclude_parsing(&answer, cli::command(), &cli::first_steps()),
    };
    let context = cli::Context::new(&args);
    errors::conclude_run(|| cli::run(&context?, &args))
}
