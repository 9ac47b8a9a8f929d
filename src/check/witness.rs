//! ONNX Runtime, loaded at run time.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ort::environment::Environment;
use ort::session::Session;
use ort::value::TensorRef;

use crate::error::{Error, Place, Result};
use crate::tensor::{Tensor, to_f32s};

/// A model as ONNX Runtime sees it.
pub struct Witness {
    session: Session,
    /// The batch size that the file fixes, if it does.
    batch: Option<i64>,
}

impl Witness {
    /// Opens a file with ONNX Runtime on the CPU.
    ///
    /// # Errors
    /// Usage, when ONNX Runtime itself is missing; Disagree, when it refuses a file that this crate accepted.
    pub fn open(path: &Path) -> Result<Witness> {
        let refused =
            |e: &dyn std::fmt::Display| Error::disagree(format!("ONNX Runtime refuses the file: {e}")).at(path.display());
        let mut builder = Session::builder(environment()?).map_err(|e| refused(&e))?;
        let session = builder.commit_from_file(path).map_err(|e| refused(&e))?;
        let batch =
            session.inputs().first().and_then(|i| i.dtype().tensor_shape()).and_then(|s| s.first().copied()).filter(|&d| d > 0);
        Ok(Witness { session, batch })
    }

    /// The file's first output for images `[N, C, H, W]`, run in pieces where the file fixes its batch size.
    pub fn run(&mut self, images: &Tensor) -> Result<Tensor> {
        let count = images.size().first().copied().unwrap_or(0);
        let piece = self.batch.unwrap_or(count).max(1);
        if count % piece != 0 {
            return self.run_padded(images, piece);
        }
        let mut parts = Vec::new();
        for start in (0..count).step_by(usize::try_from(piece).unwrap_or(1)) {
            parts.push(self.run_once(&images.f_narrow(0, start, piece)?)?);
        }
        Ok(Tensor::f_cat(&parts, 0)?)
    }

    /// Repeats the last image until the fixed batch size divides the count.
    fn run_padded(&mut self, images: &Tensor, piece: i64) -> Result<Tensor> {
        let count = images.size()[0];
        let mut parts = vec![images.shallow_clone()];
        let last = images.f_narrow(0, count - 1, 1)?;
        parts.extend((0..piece - count % piece).map(|_| last.shallow_clone()));
        Ok(self.run(&Tensor::f_cat(&parts, 0)?)?.f_narrow(0, 0, count)?)
    }

    fn run_once(&mut self, images: &Tensor) -> Result<Tensor> {
        let values = to_f32s(images)?;
        let name = self.session.inputs().first().map(|i| i.name().to_string()).unwrap_or_default();
        let failed = |e: ort::Error| Error::disagree(format!("ONNX Runtime fails on the model: {e}"));
        let input = TensorRef::from_array_view((images.size(), values.as_slice())).map_err(failed)?;
        let outputs = self.session.run(ort::inputs![name.as_str() => input]).map_err(failed)?;
        let (shape, data) = outputs[0].try_extract_tensor::<f32>().map_err(failed)?;
        let shape: Vec<i64> = shape.iter().copied().collect();
        Ok(Tensor::f_from_slice(data)?.f_view(shape.as_slice())?)
    }
}

/// Where ONNX Runtime was looked for, in order: `ORT_DYLIB_PATH`, beside the executable, where the set-up command put it.
fn candidates() -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(|dir| dir.join("lib/libonnxruntime.so")));
    let built_in = option_env!("CMIRA_ONNXRUNTIME").map(PathBuf::from);
    std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from).into_iter().chain(beside).chain(built_in).collect()
}

fn environment() -> Result<&'static Environment> {
    static ENVIRONMENT: OnceLock<Result<Environment>> = OnceLock::new();
    let environment = ENVIRONMENT.get_or_init(|| {
        let candidates = candidates();
        let Some(path) = candidates.iter().find(|p| p.is_file()) else {
            let tried: Vec<String> = candidates.iter().map(|p| p.display().to_string()).collect();
            let error = Error::usage(format!("ONNX Runtime is not there; looked at {}", tried.join(", ")));
            return Err(error.help("`cargo xtask setup` installs it, or set ORT_DYLIB_PATH"));
        };
        let unusable = |e: &dyn std::fmt::Display| Error::usage(format!("ONNX Runtime cannot be loaded: {e}"));
        let builder = ort::init_from(path).map_err(|e| unusable(&e)).at(|| path.display().to_string())?;
        // What it has to say comes back as an error. Its log would print names from files as they are.
        builder.with_logger(Arc::new(|_, _, _, _, _| ())).build().map_err(|e| unusable(&e))
    });
    environment.as_ref().map_err(Clone::clone)
}
