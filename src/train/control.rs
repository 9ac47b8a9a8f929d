//! How a caller follows, stops and resumes a training, and what it gets back.

use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::checkpoint::Checkpoint;

/// What happens during training.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A checkpoint was found; training goes on behind `epoch` finished epochs.
    Resumed {
        /// Epochs already done.
        epoch: usize,
        /// Epochs in all.
        of: usize,
    },
    /// A batch was handed to the device. Its loss is not known yet: to ask for it would make the device wait.
    Batch {
        /// The epoch, from 1.
        epoch: usize,
        /// Epochs in all.
        epochs: usize,
        /// The batch in this epoch, from 1.
        batch: usize,
        /// Batches in an epoch.
        of: usize,
    },
    /// An epoch is done.
    Epoch {
        /// The epoch, from 1.
        epoch: usize,
        /// Epochs in all.
        of: usize,
        /// The mean cross-entropy over the epoch's images, whichever way it is driven.
        loss: f64,
        /// The learning rate of the last step.
        learning_rate: f64,
        /// Training speed over this epoch.
        images_per_s: f64,
    },
}

/// What a caller can do to a training while it runs. The default does nothing.
#[derive(Default)]
pub struct Control<'a> {
    /// Is told what happens.
    pub on_event: Option<&'a mut dyn FnMut(&Event)>,
    /// Set by somebody else (a Ctrl-C handler) to stop after the present batch.
    pub stop: Option<&'a AtomicBool>,
    /// Where to save, and to look for, a half-finished training.
    pub checkpoint: Option<Checkpoint>,
}

impl Control<'_> {
    /// The same listener and stop flag, for a part of the work that leaves no checkpoint of its own.
    pub fn part(&mut self) -> Control<'_> {
        let on_event = self.on_event.as_mut().map(|listener| &mut **listener as &mut dyn FnMut(&Event));
        Control { on_event, stop: self.stop, checkpoint: None }
    }

    /// Tells the listener, if there is one.
    pub fn tell(&mut self, event: &Event) {
        if let Some(listener) = &mut self.on_event {
            listener(event);
        }
    }

    /// Whether somebody asked to stop.
    pub fn stopped(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }
}

/// One line of a training's log.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EpochRecord {
    /// The epoch, from 1.
    pub epoch: usize,
    /// The mean cross-entropy over the epoch's images, whichever way it is driven.
    pub loss: f64,
    /// The learning rate of the last step.
    pub learning_rate: f64,
}

/// A training's log, one record an epoch, also of epochs that were done before an interruption.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct History {
    /// In order.
    pub epochs: Vec<EpochRecord>,
}
