//! `vbd-vhost`: see `--help`, README.md and docs/operations.md.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing_subscriber::filter::LevelFilter;
use vhost_backend::args::{Args, LogFormat, LogLevel};
use vhost_backend::config::{DoorChoice, Failure, FailureKind, Service};
use vhost_backend::server::{Shutdown, serve};

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return explain(&error),
    };
    if args.print_capabilities {
        return print_capabilities();
    }
    if let Some(shell) = args.print_completions {
        return print_completions(shell);
    }
    init_log(args.log_format, args.log_level);
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            match args.log_format {
                LogFormat::Json => tracing::error!("{failure}"),
                // Standard error may be closed; there is nobody else to tell.
                LogFormat::Text => drop(writeln!(std::io::stderr(), "vbd-vhost: {failure}")),
            }
            ExitCode::from(failure.kind.exit_status())
        }
    }
}

/// Help and version go to standard output; what is wrong with the command line goes where the log would go.
fn explain(error: &clap::Error) -> ExitCode {
    let wanted = std::env::args_os().collect::<Vec<_>>();
    let json = |pair: &[std::ffi::OsString]| pair == ["--log-format", "json"];
    let json = wanted.windows(2).any(json) || wanted.iter().any(|arg| arg == "--log-format=json");
    if error.use_stderr() && json {
        init_log(LogFormat::Json, LogLevel::Error);
        let text = error.to_string();
        let words: Vec<&str> = text.split_whitespace().collect();
        tracing::error!("{}", words.join(" "));
    } else {
        // Nobody is left to tell when it cannot be printed.
        let _printed = error.print();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(FailureKind::Usage.exit_status()))
}

fn run(args: &Args) -> Result<(), Failure> {
    let kind = |kind| move |error| Failure { kind, error };
    let door = DoorChoice::choose(args)?;
    raise_descriptor_limit();
    let shutdown = Shutdown::new()
        .context("wake-up descriptor")
        .map_err(kind(FailureKind::Environment))?;
    // Before the socket appears: whoever sees it may send a signal.
    shutdown
        .on_signals()
        .context("signal handling")
        .map_err(kind(FailureKind::Environment))?;
    let service = Service::prepare(args, door, &shutdown)?;
    serve(service.door, &service.device, &shutdown)
        .context("serving")
        .map_err(kind(FailureKind::Serving))
}

/// Layers, queues and memory regions are descriptors; the usual soft limit is only there for programs that use
/// `select`. If it cannot be raised, whatever does not fit says so itself.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _raised = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}

fn init_log(format: LogFormat, level: LogLevel) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        // It would report a log that cannot be written to the same place, and panic when that fails.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}

fn print_completions(shell: clap_complete::Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "vbd-vhost", &mut script);
    match std::io::stdout().write_all(&script) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FailureKind::Environment.exit_status()),
    }
}

/// What QEMU's backend conventions ask for: one JSON object on standard output.
fn print_capabilities() -> ExitCode {
    let capabilities =
        serde_json::json!({ "type": "block", "features": ["read-only", "blk-file"] });
    match writeln!(std::io::stdout(), "{capabilities}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FailureKind::Environment.exit_status()),
    }
}
