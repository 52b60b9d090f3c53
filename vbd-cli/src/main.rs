//! `vbd`: see `vbd --help`.

use std::process::ExitCode;

use clap::Parser;
use vbd::Cli;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    if let Err(error) = vbd::end_on_signals() {
        let stop = vbd::Stop::from(anyhow::Error::new(error).context("cannot handle signals"));
        return vbd::Ui::new(cli.json, cli.quiet).explain(&stop);
    }
    cli.run()
}

/// Help and version go to standard output, what is wrong with the command line to standard error.
fn explain(error: &clap::Error) -> ExitCode {
    let status = u8::try_from(error.exit_code()).unwrap_or(2);
    if error.use_stderr() && std::env::args_os().any(|arg| arg == "--json") {
        let text = error.to_string();
        let words: Vec<&str> = text.split_whitespace().collect();
        let stop = vbd::Stop {
            status,
            error: Some(anyhow::Error::msg(words.join(" "))),
        };
        return vbd::Ui::new(true, false).explain(&stop);
    }
    // Nobody is left to tell when it cannot be printed.
    let _printed = error.print();
    ExitCode::from(status)
}
