//! What the system says about this process's memory.

/// Memory in use now, MB.
pub fn resident() -> Option<f64> {
    field("VmRSS:")
}

/// The most that was ever in use, MB.
pub fn peak() -> Option<f64> {
    field("VmHWM:")
}

/// A line of `/proc/self/status`, such as `VmHWM:    12345 kB`.
fn field(name: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024.0 / 1e6)
}
