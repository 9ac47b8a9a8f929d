//! Tells the linker where libtorch will be found at run time, so that no exported variable is needed.

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=build.rs");
    if let Ok(libtorch) = std::env::var("LIBTORCH") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{libtorch}/lib");
    }
    // Beside an installed binary: `cmira` and `lib/` in one folder.
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/lib");
}
