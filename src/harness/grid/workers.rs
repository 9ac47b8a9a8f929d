//! Several steps of a grid at a time, each in a process of its own.
//!
//! libtorch's threads and generator belong to a process, so that steps beside each other in one would disturb each other's numbers. A worker
//! reads nothing from its standard input: when that closes, however the run ended, it saves what it has and ends.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::plan::{Plan, Step};
use super::run::{GridEvent, Hooks, is_done, settled};
use super::store::Workspace;
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::Device;

/// Who does the steps.
pub struct Workers<'a> {
    /// A device for each worker: so many steps are done at once.
    pub devices: Vec<Device>,
    /// Makes the command that runs one step, by the name of its folder, on a device.
    pub command: &'a dyn Fn(&str, Device) -> Result<Command>,
}

/// What a worker says, a line of JSON each, on its standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// How far it is, in words.
    Working(String),
    /// Why it ended.
    Failed {
        /// See [`ErrorKind::exit_code`].
        exit_code: u8,
        /// The error in words.
        reason: String,
    },
}

impl Message {
    /// The line.
    pub fn line(&self) -> String {
        // Text and a number can be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

enum Signal {
    Said(Message),
    /// Nothing more is said.
    Ended,
}

/// A worker at work.
struct Running {
    /// The step's place in the plan.
    step: usize,
    child: Child,
    /// Closing it asks the worker to end.
    stdin: Option<ChildStdin>,
    stderr: Option<JoinHandle<String>>,
    failed: Option<Error>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Waiting,
    Running,
    Done,
}

/// Does all steps that are not done; `before` others came before them.
pub(super) fn run(plan: &Plan, workspace: &Workspace, workers: &Workers, before: usize, hooks: &mut Hooks) -> Result<()> {
    let of = before + plan.steps.len();
    let mut begun = before;
    let mut status = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        let done = settled(workspace, step)?;
        if done {
            (hooks.report)(&GridEvent::Step { name: &step.key.name, done: begun, of, skipped: true });
            begun += 1;
        }
        status.push(if done { Status::Done } else { Status::Waiting });
    }
    let (send, receive) = mpsc::channel();
    let mut slots: Vec<Option<Running>> = workers.devices.iter().map(|_| None).collect();
    let mut failure: Option<Error> = None;
    loop {
        if failure.is_none() {
            failure = hooks.go_on().err();
        }
        if failure.is_none() {
            failure = fill(plan, workers, &mut slots, &mut status, &send, &mut |step| {
                (hooks.report)(&GridEvent::Step { name: &step.key.name, done: begun, of, skipped: false });
                begun += 1;
            })
            .err();
        }
        if failure.is_some() {
            slots.iter_mut().flatten().for_each(|running| drop(running.stdin.take()));
        }
        if slots.iter().all(Option::is_none) {
            break;
        }
        let (slot, signal) = match receive.recv_timeout(Duration::from_millis(250)) {
            Ok(heard) => heard,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return Err(Error::unexpected("the workers cannot be heard")),
        };
        let Some(place) = slots.get_mut(slot) else { continue };
        let Some(running) = place.as_mut() else { continue };
        let Some(step) = plan.steps.get(running.step) else { continue };
        match signal {
            Signal::Said(Message::Working(text)) => {
                (hooks.report)(&GridEvent::Working { name: &step.key.name, text: &text });
            }
            Signal::Said(Message::Failed { exit_code, reason }) => {
                running.failed = Some(Error::new(ErrorKind::of_exit_code(exit_code), reason));
            }
            Signal::Ended => {
                if let Some(running) = place.take() {
                    let number = running.step;
                    let ended = end(running, step, workspace);
                    (hooks.report)(&GridEvent::Finished { name: &step.key.name });
                    match ended {
                        Ok(()) => status[number] = Status::Done,
                        // Those that are asked to stop because of the first failure are interrupted.
                        Err(error) => failure = failure.or(Some(error)),
                    }
                }
            }
        }
    }
    match failure {
        Some(error) => Err(error),
        None if status.iter().all(|status| *status == Status::Done) => Ok(()),
        None => Err(Error::unexpected("some steps of the grid wait for each other")),
    }
}

/// Gives every free worker a step whose needs are done.
fn fill(
    plan: &Plan,
    workers: &Workers,
    slots: &mut [Option<Running>],
    status: &mut [Status],
    send: &Sender<(usize, Signal)>,
    begins: &mut dyn FnMut(&Step),
) -> Result<()> {
    for (slot, (place, &device)) in slots.iter_mut().zip(&workers.devices).enumerate() {
        if place.is_some() {
            continue;
        }
        let ready = |(number, step): &(usize, &Step)| {
            status[*number] == Status::Waiting && step.work.needs().iter().all(|&needed| status[needed] == Status::Done)
        };
        let Some((number, step)) = plan.steps.iter().enumerate().find(ready) else { return Ok(()) };
        begins(step);
        let command = (workers.command)(&step.key.folder(), device)?;
        *place = Some(start(command, number, slot, send).map_err(|error| error.at(&step.key.name))?);
        status[number] = Status::Running;
    }
    Ok(())
}

fn start(mut command: Command, step: usize, slot: usize, send: &Sender<(usize, Signal)>) -> Result<Running> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| Error::unexpected(format!("no worker can be started: {error}")))?;
    let stdin = child.stdin.take();
    if let Some(out) = child.stdout.take() {
        let send = send.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(std::result::Result::ok) {
                // Libraries may print as well.
                if let Ok(message) = serde_json::from_str(&line) {
                    // Nobody listens any more when the run has ended.
                    let _ = send.send((slot, Signal::Said(message)));
                }
            }
            let _ = send.send((slot, Signal::Ended));
        });
    }
    let stderr = child.stderr.take().map(|err| std::thread::spawn(move || tail(err)));
    Ok(Running { step, child, stdin, stderr, failed: None })
}

/// The end of what a worker printed: a library's last words, should it end without its own.
fn tail(mut source: impl Read) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = source.read(&mut buffer) {
        kept.extend_from_slice(buffer.get(..read).unwrap_or_default());
        let surplus = kept.len().saturating_sub(300);
        kept.drain(..surplus);
    }
    String::from_utf8_lossy(&kept).trim().to_string()
}

fn end(mut running: Running, step: &Step, workspace: &Workspace) -> Result<()> {
    let status = running.child.wait().map_err(|error| Error::unexpected(error).at(&step.key.name))?;
    let words = running.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
    match running.failed {
        Some(error) => Err(error),
        None if status.success() && is_done(workspace, step)? => Ok(()),
        None => Err(Error::unexpected(format!("its process ended ({status}) and said: {words}")).at(&step.key.name)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn messages_are_lines() {
        for message in
            [Message::Working("epoch 1/2\n\"".to_string()), Message::Failed { exit_code: 6, reason: "a: b (c)".to_string() }]
        {
            let line = message.line();
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(serde_json::from_str::<Message>(&line).unwrap(), message);
        }
    }
}
