//! How far a job is: a bar on a terminal, `qemu-img`'s line for scripts that ask for it, or nothing.

use crate::output;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Shows one job.
pub struct Display {
    form: Form,
    begun: Instant,
}

enum Form {
    Bar(ProgressBar),
    /// `    (12.34/100%)\r` on standard output.
    Line,
    Silent,
}

impl Display {
    /// `title` names the job; `line` asks for qemu-img's form.
    pub fn new(title: &str, line: bool, quiet: bool) -> Display {
        let form = match () {
            () if quiet => Form::Silent,
            () if line => Form::Line,
            () if std::io::stderr().is_terminal() => Form::Bar(bar(title)),
            () => Form::Silent,
        };
        Display { form, begun: Instant::now() }
    }

    /// Shows that `done` of `total` bytes are behind the job.
    pub fn update(&self, done: u64, total: u64) {
        match &self.form {
            Form::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            Form::Line => print_percent(done, total),
            Form::Silent => {}
        }
    }

    /// Takes the display away; says how long the job took.
    pub fn end(self, finished: bool) -> Duration {
        match &self.form {
            Form::Bar(bar) => bar.finish_and_clear(),
            Form::Line => {
                if finished {
                    print_percent(1, 1);
                }
                let _ = output::raw(b"\n");
            }
            Form::Silent => {}
        }
        self.begun.elapsed()
    }
}

fn print_percent(done: u64, total: u64) {
    let percent = if total == 0 { 100.0 } else { done as f64 * 100.0 / total as f64 };
    // A reader that is gone does not stop the job.
    let _ = output::raw(format!("    ({:.2}/100%)\r", percent.min(100.0)).as_bytes());
}

fn bar(title: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let template =
        "{msg:<9} [{bar:32}] {percent:>3}%  {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(title.to_string());
    bar
}
