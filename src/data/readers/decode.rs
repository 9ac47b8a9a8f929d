//! One untrusted image file to bytes `[C, H, W]`.

use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};

/// What a file may cost.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) max_pixels: u64,
    pub(super) max_file_bytes: u64,
}

/// Why a file gives no image.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: String,
    /// Whether the file's content is to blame, so that reading it again cannot help.
    pub(super) lasting: bool,
}

impl Failure {
    fn content(reason: impl ToString) -> Failure {
        Failure { reason: reason.to_string(), lasting: true }
    }
}

/// Height and width in pixels.
pub(super) type Size = (usize, usize);

/// The size that a file's header states.
pub(super) fn size(path: &Path, limits: Limits) -> Result<Size, Failure> {
    let bytes = load(path, limits)?;
    contained(|| open(&bytes, limits).map(|(_, size)| size))
}

/// Decodes to `channels` (1 or 3) bytes a pixel, channel by channel.
///
/// Alpha is dropped and embedded colour profiles and orientations are ignored, as PIL's `convert("RGB")` does; grey is
/// Rec. 601 luma in PIL's integers; 16 bits are rounded to 8. Of an animation the first picture is taken.
pub(super) fn decode(path: &Path, limits: Limits, channels: usize, wanted: Size, resize: bool) -> Result<Vec<u8>, Failure> {
    let bytes = load(path, limits)?;
    contained(|| {
        let (decoder, size) = open(&bytes, limits)?;
        if size != wanted && !resize {
            let (height, width) = size;
            return Err(Failure::content(format!("is {width}x{height} pixels, not {}x{}", wanted.1, wanted.0)));
        }
        let mut picture = DynamicImage::from_decoder(decoder).map_err(Failure::content)?;
        picture = match (channels, picture.color().has_color()) {
            (1, false) => DynamicImage::ImageLuma8(picture.into_luma8()),
            _ => DynamicImage::ImageRgb8(picture.into_rgb8()),
        };
        if size != wanted {
            let side = |side: usize| u32::try_from(side).map_err(Failure::content);
            picture = picture.resize_exact(side(wanted.1)?, side(wanted.0)?, FilterType::Triangle);
        }
        Ok(match picture {
            DynamicImage::ImageLuma8(grey) => grey.into_raw(),
            other => {
                let rgb = other.into_rgb8();
                if channels == 1 {
                    rgb.pixels().map(|pixel| luma(pixel.0)).collect()
                } else {
                    (0..channels).flat_map(|channel| rgb.pixels().map(move |pixel| pixel.0[channel])).collect()
                }
            }
        })
    })
}

/// Rec. 601 luma as PIL's `convert("L")` computes it, so that grey models see what they were trained on.
fn luma([red, green, blue]: [u8; 3]) -> u8 {
    let sum = u32::from(red) * 19595 + u32::from(green) * 38470 + u32::from(blue) * 7471 + 0x8000;
    u8::try_from(sum >> 16).unwrap_or(u8::MAX)
}

fn load(path: &Path, limits: Limits) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let limit = limits.max_file_bytes;
    let read = std::fs::File::open(path).and_then(|file| file.take(limit.saturating_add(1)).read_to_end(&mut bytes));
    read.map_err(|error| Failure { reason: error.to_string(), lasting: false })?;
    if bytes.is_empty() {
        return Err(Failure::content("is empty"));
    }
    if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
        return Err(Failure::content(format!("is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// A decoder that has read the header, and the size found there.
fn open(bytes: &[u8], limits: Limits) -> Result<(impl ImageDecoder + '_, Size), Failure> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(Failure::content)?;
    if reader.format() == Some(ImageFormat::Jpeg) && !jpeg_is_complete(bytes) {
        return Err(Failure::content("is cut off: its end-of-image marker is missing"));
    }
    let mut allowed = image::Limits::default();
    // Sides are checked as an area below; 16 bytes a pixel hold four channels of 32 bits.
    allowed.max_alloc = Some(limits.max_pixels.saturating_mul(16).saturating_add(1 << 20));
    reader.limits(allowed);
    let decoder = reader.into_decoder().map_err(Failure::content)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(Failure::content(format!("is {width}x{height} pixels, more than {} in all", limits.max_pixels)));
    }
    let side = |side: u32| usize::try_from(side).map_err(Failure::content);
    let size = (side(height)?, side(width)?);
    if size.0 == 0 || size.1 == 0 {
        return Err(Failure::content("has no pixels"));
    }
    Ok((decoder, size))
}

/// The JPEG decoder fills what a cut-off file lacks with grey, without an error. Inside compressed data `FF` is always followed
/// by 0, so an end marker behind the last start of a scan is the real one (thumbnails have theirs before it).
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let last = |marker: u8| bytes.windows(2).rposition(|pair| pair == [0xFF, marker]);
    match (last(0xDA), last(0xD9)) {
        (Some(scan), Some(end)) => scan < end,
        _ => false,
    }
}

/// Decoders of old formats can panic on hostile input; that concerns one file, not the whole set.
fn contained<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(Failure::content("made its decoder fail")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// Eight pixels saved by Pillow 13 as a palette PNG, and the grey values that its `convert("L")` gives.
    const PALETTE_PNG: [u8; 106] = [
        137, 80, 78, 71, 13, 10, 26, 10, 0, 0, 0, 13, 73, 72, 68, 82, 0, 0, 0, 8, 0, 0, 0, 1, 4, 3, 0, 0, 0, 17, 46, 242, 112, 0,
        0, 0, 24, 80, 76, 84, 69, 250, 251, 249, 12, 200, 99, 0, 255, 0, 128, 127, 126, 77, 13, 201, 255, 0, 0, 1, 2, 3, 0, 0,
        255, 118, 173, 197, 235, 0, 0, 0, 13, 73, 68, 65, 84, 120, 156, 99, 8, 42, 100, 115, 6, 0, 2, 239, 1, 13, 54, 142, 3,
        126, 0, 0, 0, 0, 73, 69, 78, 68, 174, 66, 96, 130,
    ];
    const COLOURS: [[u8; 3]; 8] =
        [[255, 0, 0], [0, 255, 0], [0, 0, 255], [12, 200, 99], [250, 251, 249], [1, 2, 3], [77, 13, 201], [128, 127, 126]];
    const GREYS: [u8; 8] = [76, 150, 29, 132, 250, 2, 54, 127];
    /// The same pixels after Pillow's `convert("1")`: one bit each.
    const ONE_BIT_PNG: [u8; 67] = [
        137, 80, 78, 71, 13, 10, 26, 10, 0, 0, 0, 13, 73, 72, 68, 82, 0, 0, 0, 8, 0, 0, 0, 1, 1, 0, 0, 0, 0, 203, 123, 210, 238,
        0, 0, 0, 10, 73, 68, 65, 84, 120, 156, 99, 136, 4, 0, 0, 91, 0, 90, 124, 165, 147, 84, 0, 0, 0, 0, 73, 69, 78, 68, 174,
        66, 96, 130,
    ];
    const LIMITS: Limits = Limits { max_pixels: 1000, max_file_bytes: 10_000 };

    fn decoded(bytes: &[u8], channels: usize, wanted: Size, resize: bool) -> Result<Vec<u8>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, bytes).unwrap();
        decode(&path, LIMITS, channels, wanted, resize).map_err(|failure| failure.reason)
    }

    fn png(image: &DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn colours_and_greys_are_pillows() {
        let planes: Vec<u8> = (0..3).flat_map(|channel| COLOURS.map(|colour| colour[channel])).collect();
        assert_eq!(decoded(&PALETTE_PNG, 3, (1, 8), false).unwrap(), planes);
        assert_eq!(decoded(&PALETTE_PNG, 1, (1, 8), false).unwrap(), GREYS);
        let bits = [0, 255, 0, 255, 255, 0, 0, 255];
        assert_eq!(decoded(&ONE_BIT_PNG, 1, (1, 8), false).unwrap(), bits);
        assert_eq!(decoded(&ONE_BIT_PNG, 3, (1, 8), false).unwrap(), [bits, bits, bits].concat());
    }

    #[test]
    fn alpha_is_dropped_and_16_bits_become_8() {
        let clear = image::RgbaImage::from_pixel(2, 1, image::Rgba([10, 20, 30, 0]));
        assert_eq!(decoded(&png(&clear.into()), 3, (1, 2), false).unwrap(), [10, 10, 20, 20, 30, 30]);
        let deep = image::ImageBuffer::<image::Luma<u16>, _>::from_raw(3, 1, vec![0u16, 257 * 100, 65535]).unwrap();
        assert_eq!(decoded(&png(&DynamicImage::ImageLuma16(deep.clone())), 1, (1, 3), false).unwrap(), [0, 100, 255]);
        assert_eq!(decoded(&png(&DynamicImage::ImageLuma16(deep)), 3, (1, 3), false).unwrap(), [0, 100, 255].repeat(3));
    }

    #[test]
    fn resizing_is_asked_for() {
        let plain = png(&image::RgbImage::from_pixel(6, 4, image::Rgb([9, 8, 7])).into());
        assert_eq!(decoded(&plain, 3, (2, 3), false).unwrap_err(), "is 6x4 pixels, not 3x2");
        assert_eq!(decoded(&plain, 3, (2, 3), true).unwrap(), [[9; 6], [8; 6], [7; 6]].concat());
        assert_eq!(decoded(&plain, 1, (2, 3), true).unwrap().len(), 6);
    }

    #[test]
    fn bad_files_are_refused_with_a_reason() {
        assert_eq!(decoded(&[], 3, (1, 8), false).unwrap_err(), "is empty");
        assert!(decoded(&[0; 10_001], 3, (1, 8), false).unwrap_err().contains("larger than 10000 bytes"));
        assert!(decoded(b"not an image at all", 3, (1, 8), false).is_err());
        for length in 1..PALETTE_PNG.len() - 12 {
            assert!(decoded(&PALETTE_PNG[..length], 3, (1, 8), false).is_err(), "{length} bytes of a PNG were taken");
        }
        let large = png(&image::GrayImage::new(40, 30).into());
        assert!(decoded(&large, 1, (30, 40), false).unwrap_err().contains("more than 1000"));
    }

    #[test]
    fn a_cut_off_jpeg_is_refused() {
        let mut bytes = Cursor::new(Vec::new());
        let noise = image::RgbImage::from_fn(16, 16, |x, y| image::Rgb([(x * 37 + y * 91) as u8, (x * y) as u8, (x ^ y) as u8]));
        noise.write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
        let whole = bytes.into_inner();
        assert_eq!(decoded(&whole, 3, (16, 16), false).unwrap().len(), 768);
        assert_eq!(decoded(&[&whole[..], b"trailing"].concat(), 3, (16, 16), false).unwrap().len(), 768);
        for missing in [2, 20, 60] {
            let reason = decoded(&whole[..whole.len() - missing], 3, (16, 16), false).unwrap_err();
            assert!(reason.contains("cut off"), "{reason}");
        }
    }

    #[test]
    fn a_missing_file_may_come_back() {
        let failure = decode(Path::new("does-not-exist.png"), LIMITS, 3, (1, 1), false).unwrap_err();
        assert!(!failure.lasting);
    }
}
