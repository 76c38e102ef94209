//! The command `lvd`: the verbs and habits of `qemu-img` for LVD images.
#![allow(unreachable_pub, reason = "a binary exports nothing; `pub` says what a file offers to the others")]

mod adapter;
mod args;
mod backup;
mod bench;
mod bitmap;
mod control;
mod copy;
mod create;
mod demo;
mod info;
mod jobs;
mod map;
mod open;
mod output;
mod progress;
mod run;
mod serve;
mod shape;
mod signals;
mod transfer;

use args::{Arguments, Command};
use clap::Parser;
use clap::error::ErrorKind;
use lvd::Result;
use std::process::ExitCode;

/// How a command ended that did what it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// The disks differ.
    Differ,
    /// The file is damaged.
    Damaged,
    /// The file is none that can be checked.
    NotCheckable,
    /// A command that was run ended so.
    Ended(u8),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return misused(&error),
    };
    // Ends with 2 where it could not do its work: 1 says that the disks differ.
    let failed = if matches!(arguments.command, Command::Compare(_)) { 2 } else { 1 };
    match signals::listen().and_then(|()| execute(&arguments.command)) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Differ) => ExitCode::from(1),
        Ok(Outcome::Damaged) => ExitCode::from(2),
        Ok(Outcome::NotCheckable) => ExitCode::from(63),
        Ok(Outcome::Ended(code)) => ExitCode::from(code),
        Err(error) => {
            output::complain(&error.to_string());
            ExitCode::from(failed)
        }
    }
}

fn execute(command: &Command) -> Result<Outcome> {
    let done = |()| Outcome::Done;
    match command {
        Command::Create(arguments) => create::create(arguments).map(done),
        Command::Info(arguments) => info::info(arguments).map(done),
        Command::Map(arguments) => map::map(arguments).map(done),
        Command::Check(arguments) => info::check(arguments),
        Command::Compare(arguments) => copy::compare(arguments),
        Command::Convert(arguments) => copy::convert(arguments).map(done),
        Command::Resize(arguments) => shape::resize(arguments).map(done),
        Command::Rebase(arguments) => shape::rebase(arguments).map(done),
        Command::Read(arguments) => transfer::read(arguments).map(done),
        Command::Write(arguments) => transfer::write(arguments).map(done),
        Command::Bench(arguments) => bench::bench(arguments).map(done),
        Command::Stream(arguments) => jobs::stream(arguments).map(done),
        Command::Commit(arguments) => jobs::commit(arguments).map(done),
        Command::Mirror(arguments) => copy::mirror(arguments).map(done),
        Command::Bitmap(verb) => bitmap::bitmap(verb).map(done),
        Command::Backup(arguments) => backup::backup(arguments).map(done),
        Command::Diff(arguments) => backup::diff(arguments).map(done),
        Command::Serve(arguments) => serve::serve(arguments),
        Command::Job(verb) => control::job(verb).map(done),
        Command::Snapshot(arguments) => control::snapshot(arguments).map(done),
        Command::Demo(arguments) => demo::demo(arguments).map(done),
        Command::Adapter => adapter::adapter().map(done),
    }
}

/// Help goes to standard output; misuse is one line, and ends as qemu-img ends.
fn misused(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return match output::raw(error.to_string().as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let text = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            "say what to do; 'lvd --help' lists the commands".into()
        }
        _ => first_paragraph(&error.to_string()),
    };
    output::complain(&text);
    let comparing = std::env::args_os().nth(1).is_some_and(|verb| verb == "compare");
    ExitCode::from(if comparing { 2 } else { 1 })
}

/// What clap says went wrong, without its usage text.
fn first_paragraph(text: &str) -> String {
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_string()
}
