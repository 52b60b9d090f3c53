//! `vbd`: see `vbd --help`.

use std::process::ExitCode;

use clap::Parser;
use vbd::Cli;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to tell when it cannot be printed.
            let _printed = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    if let Err(error) = vbd::end_on_signals() {
        let stop = vbd::Stop::from(anyhow::Error::new(error).context("cannot handle signals"));
        return vbd::Ui::new(cli.json, cli.quiet).explain(&stop);
    }
    cli.run()
}
