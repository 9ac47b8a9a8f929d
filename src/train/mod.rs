//! The one training loop: plain training, unlearning by gradient ascent and the attack's inner epochs all run through
//! [`fit`]. It sees a [`Network`] and a source of [`Samples`], reports [`Event`]s, and never prints.

pub mod checkpoint;
pub mod control;
pub mod evaluate;
pub mod loss;
pub mod network;
pub mod optim;
pub mod samples;
pub mod schedule;
pub mod settings;
pub mod sgd_loop;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod testing;

pub use checkpoint::Checkpoint;
pub use control::{Control, EpochRecord, Event, History};
pub use network::Network;
pub use samples::{Held, Images, Labelled, Samples, Targets};
pub use schedule::Schedule;
pub use settings::{Direction, TrainSettings};
pub use sgd_loop::{Adjust, fit, fit_adjusted};
