//! What tests need of the machine beside servers.

use std::process::Command;

use crate::cargo::succeeds;

/// Programs that scenarios call, and the Debian package of each.
const PROGRAMS: [(&str, &str); 5] = [
    ("zstd", "zstd"),
    ("age", "age"),
    ("openssl", "openssl"),
    ("chromium", "chromium"),
    ("chromedriver", "chromium-driver"),
];

/// Installs missing programs where that is possible, and says what stays missing.
pub(crate) fn provide_programs() {
    let missing = |name: &str| Command::new(name).arg("--version").output().is_err();
    let wanted: Vec<_> = PROGRAMS.iter().filter(|(program, _)| missing(program)).collect();
    if wanted.is_empty() {
        return;
    }
    if is_root() && !missing("apt-get") {
        let packages: Vec<_> = wanted.iter().map(|(_, package)| *package).collect();
        println!("installing {}", packages.join(", "));
        let install = || {
            let mut apt = Command::new("apt-get");
            apt.env("DEBIAN_FRONTEND", "noninteractive");
            apt.args(["install", "--yes", "--no-install-recommends"]).args(&packages);
            succeeds(&mut apt)
        };
        // The lists of a fresh image are empty or old.
        if !install() {
            let _ = Command::new("apt-get").arg("update").output();
            install();
        }
    }
    for (program, package) in wanted {
        if missing(program) {
            println!("{program}: MISSING (package {package}), tests that need it will be skipped");
        }
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|facts| facts.uid() == 0)
}
