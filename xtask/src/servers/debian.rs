//! Servers from Debian's suites, of which each has one version of PostgreSQL with all its tools.
//!
//! apt gets a configuration, lists and a state of its own, so that it needs no root and does not touch the system.
//! The packages are unpacked, not installed. A suite whose C library is newer than the machine's brings its own
//! loader, and `patchelf` (from the same suite, run by that loader) points the programs to it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::{publish, succeed};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

pub(super) fn fetch(major: u32, cache: &Path) -> Result<String> {
    let suite = match major {
        13 => "bullseye",
        15 => "bookworm",
        17 => "trixie",
        18 => "sid",
        _ => bail!("no suite of Debian has PostgreSQL {major}"),
    };
    ensure!(Path::new(KEYRING).exists(), "this is no Debian ({KEYRING} is missing)");
    let staged = tempfile::Builder::new().prefix("staged-").tempdir_in(cache)?;
    let root = staged.path();
    let packages = download(major, suite, root)?;
    for package in &packages {
        succeed(Command::new("dpkg-deb").arg("-x").arg(package).arg(root))?;
    }
    let version = packages.iter().find_map(|package| version_of(package, &format!("postgresql-{major}")));
    let origin = format!("Debian {suite}, {}", version.as_deref().unwrap_or("version unknown"));
    fs::remove_dir_all(root.join("apt"))?;

    let lib = Path::new("usr/lib/postgresql").join(major.to_string());
    // Without LLVM there must be no trace of the just-in-time compiler, or the first long query fails.
    for file in ["lib/llvmjit.so", "lib/llvmjit_types.bc"] {
        let _ = fs::remove_file(root.join(&lib).join(file));
    }
    for folder in ["lib/bitcode", "lib/pgxs"] {
        let _ = fs::remove_dir_all(root.join(&lib).join(folder));
    }
    relocate(root, &cache.join(major.to_string()), &lib.join("bin"))?;
    publish(staged, major, &lib.join("bin"), &origin, cache)?;
    Ok(origin)
}

/// Where this machine's own apt gets its packages from; other suites lie beside the installed one.
fn mirrors() -> Result<BTreeSet<String>> {
    let sites = succeed(Command::new("apt-get").args(["indextargets", "--format", "$(SITE)"]))?;
    Ok(sites.lines().filter(|site| !site.ends_with("-security")).map(str::to_owned).collect())
}

/// Downloads the server and the libraries it needs; the paths of the packages worth unpacking.
fn download(major: u32, suite: &str, root: &Path) -> Result<Vec<PathBuf>> {
    let apt = root.join("apt");
    for folder in ["state/lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(apt.join(folder))?;
    }
    // With an empty status apt takes nothing for installed, and names every library.
    fs::write(apt.join("state/status"), "")?;
    let home = apt.display();
    let config = format!(
        "Dir::Etc::sourcelist \"{home}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
         Dir::State \"{home}/state\";\nDir::State::status \"{home}/state/status\";\n\
         Dir::Cache \"{home}/cache\";\nAPT::Install-Recommends \"false\";\nAPT::Sandbox::User \"\";\n\
         Acquire::Check-Valid-Until \"false\";\nAcquire::Languages \"none\";\nAcquire::Retries \"3\";\n\
         Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n"
    );
    fs::write(apt.join("apt.conf"), config)?;
    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .env("APT_CONFIG", apt.join("apt.conf"))
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(arguments);
        succeed(&mut command)
    };
    let mut updated = Err(anyhow!("apt has no source on this machine"));
    for mirror in mirrors()? {
        fs::write(apt.join("sources.list"), format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))?;
        updated = apt_get(&["update", "--error-on=any"]);
        if updated.is_ok() {
            break;
        }
    }
    updated.with_context(|| format!("the lists of Debian {suite} cannot be had"))?;
    let server = format!("postgresql-{major}");
    apt_get(&["install", "--yes", "--download-only", &server, "patchelf"])?;

    let client = format!("postgresql-client-{major}");
    let wanted = |name: &str| {
        let library = name.starts_with("lib") && !name.starts_with("libllvm") && !name.starts_with("libperl");
        library || name == "zlib1g" || name == "patchelf" || name == server || name == client
    };
    let mut packages = Vec::new();
    for entry in fs::read_dir(apt.join("cache/archives"))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.ends_with(".deb") && name.split('_').next().is_some_and(wanted) {
            packages.push(path);
        }
    }
    Ok(packages)
}

/// The version of the package at `path`, if it has that name.
fn version_of(path: &Path, name: &str) -> Option<String> {
    let file = path.file_name()?.to_str()?.strip_suffix(".deb")?;
    let mut fields = file.split('_');
    (fields.next()? == name).then(|| fields.next().map(|version| version.replace("%3a", ":")))?
}

/// Makes the programs find the libraries in the folder, and its loader if the machine's is too old for them.
fn relocate(root: &Path, home: &Path, bin: &Path) -> Result<()> {
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let folders = [format!("usr/lib/{triplet}"), format!("lib/{triplet}")];
    let theirs = newest_glibc(root, &folders);
    let ours = glibc_of_machine()?;
    let keep_own = theirs.is_some_and(|theirs| theirs > ours);
    if !keep_own {
        remove_glibc(root, &folders)?;
    }
    let rpath = |base: &Path| {
        folders.iter().map(|folder| base.join(folder).display().to_string()).collect::<Vec<_>>()
    };
    let loader = loader_name();
    let loader_in = |base: &Path| {
        let merged = base.join("usr").join(loader.trim_start_matches('/'));
        if root.join("usr").join(loader.trim_start_matches('/')).exists() {
            merged
        } else {
            base.join(loader.trim_start_matches('/'))
        }
    };
    let patchelf = || {
        let library_path = rpath(root).join(":");
        let mut command = if keep_own { Command::new(loader_in(root)) } else { Command::new(loader) };
        command.arg("--library-path").arg(library_path).arg(root.join("usr/bin/patchelf"));
        command
    };
    for entry in fs::read_dir(root.join(bin))? {
        let program = entry?.path();
        let mut magic = [0; 4];
        std::io::Read::read(&mut fs::File::open(&program)?, &mut magic)?;
        if program.is_symlink() || &magic != b"\x7fELF" {
            continue;
        }
        // DT_RPATH, not DT_RUNPATH: it also serves the libraries that the libraries need, and loaded modules.
        succeed(patchelf().args(["--force-rpath", "--set-rpath", &rpath(home).join(":")]).arg(&program))?;
        if keep_own {
            succeed(patchelf().arg("--set-interpreter").arg(loader_in(home)).arg(&program))?;
        }
    }
    Ok(())
}

fn loader_name() -> &'static str {
    if cfg!(target_arch = "aarch64") { "/lib/ld-linux-aarch64.so.1" } else { "/lib64/ld-linux-x86-64.so.2" }
}

/// The (major, minor) of the machine's C library.
fn glibc_of_machine() -> Result<(u32, u32)> {
    let text = succeed(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    parse_version(text.trim().trim_start_matches("glibc "))
        .with_context(|| format!("getconf answered {text:?}"))
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}

/// The version of the C library that was unpacked: it says so in its own text, of which this finds the number.
fn newest_glibc(root: &Path, folders: &[String]) -> Option<(u32, u32)> {
    let library =
        folders.iter().map(|folder| root.join(folder).join("libc.so.6")).find(|path| path.exists())?;
    let bytes = fs::read(library).ok()?;
    let marker = b"stable release version ";
    let at = bytes.windows(marker.len()).position(|window| window == marker)? + marker.len();
    let text: String = bytes[at..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit() || **byte == b'.')
        .map(|byte| *byte as char)
        .collect();
    parse_version(text.trim_end_matches('.'))
}

/// Takes the unpacked C library away, so that programs run with the machine's.
fn remove_glibc(root: &Path, folders: &[String]) -> Result<()> {
    const PARTS: [&str; 17] = [
        "libc",
        "libm",
        "libmvec",
        "libpthread",
        "libdl",
        "librt",
        "libutil",
        "libresolv",
        "libnsl",
        "libanl",
        "libBrokenLocale",
        "libthread_db",
        "libc_malloc_debug",
        "libnss_files",
        "libnss_dns",
        "libnss_compat",
        "libmemusage",
    ];
    for folder in folders {
        let Ok(entries) = fs::read_dir(root.join(folder)) else { continue };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let part = name.split(['.', '-']).next().unwrap_or_default();
            if PARTS.contains(&part) || name.starts_with("ld-") {
                fs::remove_file(&path)?;
            }
        }
    }
    Ok(())
}
