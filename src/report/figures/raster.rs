//! Figures as pixels.

use std::sync::{Arc, OnceLock};

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

use crate::error::{Error, Result};

/// DejaVu Sans (see fonts/LICENSE): the same pixels on every machine, whatever fonts it has.
const FONT: &[u8] = include_bytes!("../fonts/DejaVuSans.ttf");

/// Pixels of the picture for one of the drawing.
const SCALE: f32 = 2.0;

/// Draws an SVG of ours into a PNG.
pub(super) fn png(svg: &str) -> Result<Vec<u8>> {
    let options = Options { fontdb: fonts(), font_family: "DejaVu Sans".to_string(), ..Options::default() };
    let failed = |error: &dyn std::fmt::Display| Error::unexpected(format!("a figure cannot be drawn as PNG: {error}"));
    let tree = Tree::from_str(svg, &options).map_err(|error| failed(&error))?;
    let size = tree.size().to_int_size().scale_by(SCALE).ok_or_else(|| failed(&"it has no size"))?;
    let mut pixels = Pixmap::new(size.width(), size.height()).ok_or_else(|| failed(&"it is too large"))?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| failed(&error))
}

/// Our font, and those of the machine for letters that it does not have.
fn fonts() -> Arc<fontdb::Database> {
    static FONTS: OnceLock<Arc<fontdb::Database>> = OnceLock::new();
    let load = || {
        let mut fonts = fontdb::Database::new();
        fonts.load_font_data(FONT.to_vec());
        fonts.load_system_fonts();
        fonts.set_sans_serif_family("DejaVu Sans");
        Arc::new(fonts)
    };
    FONTS.get_or_init(load).clone()
}
