//! The command line of scuttleup: parse, run, exit code.

mod cli;

use std::process::ExitCode;

use cli::report::errors;

fn main() -> ExitCode {
    errors::explain_panics();
    errors::end_panics(run)
}

fn run() -> ExitCode {
    if cli::complete() {
        return ExitCode::SUCCESS;
    }
    match cli::parse() {
        Ok(args) => errors::conclude(cli::Context::new(&args).and_then(|context| cli::run(&context, &args))),
        Err(answer) => errors::conclude_parsing(&answer, cli::command(), &cli::first_steps()),
    }
}
