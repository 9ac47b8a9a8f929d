//! A network and data small enough to be checked by hand or against PyTorch.

use std::cell::Cell;

use rand::Rng;
use rand_pcg::Pcg64;

use super::{Held, Images, Labelled, Network, Samples, Targets};
use crate::error::Result;
use crate::graph::{ExampleGradients, Mode, OneByOne, Param, State};
use crate::tensor::{Device, Tensor, no_grad, to_f32s};

/// `logits = images W^T + b`, where an "image" is three pixels `[3, 1, 1]` and there are two classes.
pub struct Linear {
    params: Vec<Param>,
    /// Passes in [`Mode::Train`].
    pub steps: Cell<usize>,
}

impl Linear {
    pub fn new() -> Self {
        let leaf = |name: &str, values: &[f32], shape: &[i64]| Param {
            name: name.to_string(),
            tensor: Tensor::f_from_slice(values).unwrap().f_reshape(shape).unwrap().f_set_requires_grad(true).unwrap(),
            is_weight_matrix: shape.len() > 1,
        };
        let weight = leaf("weight", &[0.1, -0.2, 0.3, 0.0, 0.1, -0.1], &[2, 3]);
        Linear { params: vec![weight, leaf("bias", &[0.0, 0.05], &[2])], steps: Cell::new(0) }
    }

    pub fn values(&self) -> Vec<f32> {
        self.params.iter().flat_map(|param| to_f32s(&param.tensor).unwrap()).collect()
    }
}

impl Network for Linear {
    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.steps.set(self.steps.get() + usize::from(mode == Mode::Train));
        let rows = images.f_flatten(1, -1)?;
        Ok(rows.f_matmul(&self.params[0].tensor.f_transpose(0, 1)?)?.f_add(&self.params[1].tensor)?)
    }

    fn params(&self) -> &[Param] {
        &self.params
    }

    fn example_gradients(&self, _: &Tensor) -> Result<Box<dyn ExampleGradients + '_>> {
        Ok(Box::new(OneByOne::new(Box::new(|images| self.forward(images, Mode::Eval)), &self.params)))
    }

    fn state(&self) -> Result<State> {
        let copy = |param: &Param| (param.name.clone(), param.tensor.f_detach_copy().unwrap());
        Ok(State(self.params.iter().map(copy).collect()))
    }

    fn load_state(&self, state: &State) -> Result<()> {
        let _guard = no_grad();
        for (param, (_, value)) in self.params.iter().zip(&state.0) {
            param.tensor.shallow_clone().f_copy_(value)?;
        }
        Ok(())
    }
}

/// Four images that a linear network can tell apart.
pub fn four() -> impl Samples {
    let pixels = [1.0f32, 0.0, 2.0, 0.0, 1.0, -1.0, 1.0, 1.0, 0.0, -1.0, 2.0, 0.5];
    let images = Tensor::f_from_slice(&pixels).unwrap().f_reshape([4, 3, 1, 1]).unwrap();
    Held::new(images, Targets::hard(&[0, 1, 1, 0], 2, Device::Cpu).unwrap()).unwrap()
}

/// `count` images from a seed; each training batch is disturbed by chance.
pub fn noisy(count: usize) -> impl Samples {
    let mut rng = crate::tensor::rng(1, "noisy images", 0);
    let labels: Vec<usize> = (0..count).map(|index| index % 2).collect();
    let pixels: Vec<f32> = labels.iter().flat_map(|label| [*label as f32, 0.5, -0.5]).map(|p| p + rng.random::<f32>()).collect();
    let images = Tensor::f_from_slice(&pixels).unwrap().f_reshape([-1, 3, 1, 1]).unwrap();
    Labelled::new(Targets::hard(&labels, 2, Device::Cpu).unwrap(), move |indices: &Tensor, rng: Option<&mut Pcg64>| {
        let shift = rng.map_or(0.0, |rng| rng.random::<f64>());
        Ok(images.f_index_select(0, indices)?.f_add_scalar(shift)?)
    })
}

/// Remembers the size of every batch that it is asked for.
pub struct Counting<S>(pub S, pub std::cell::RefCell<Vec<i64>>);

impl<S: Samples> Images for Counting<S> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn device(&self) -> Device {
        self.0.device()
    }

    fn images(&self, indices: &Tensor) -> Result<Tensor> {
        self.0.images(indices)
    }
}

impl<S: Samples> Samples for Counting<S> {
    fn targets(&self, indices: &Tensor) -> Result<Targets> {
        self.0.targets(indices)
    }

    fn batch(&self, indices: &Tensor, rng: &mut Pcg64) -> Result<(Tensor, Targets)> {
        self.1.borrow_mut().push(indices.size()[0]);
        self.0.batch(indices, rng)
    }
}
