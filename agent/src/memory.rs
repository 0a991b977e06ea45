//! How the daemon uses the C library's allocator.

/// Has what is freed given back to the system.
///
/// By itself glibc raises the size from which on memory is the system's own as soon as something large is freed, and keeps as
/// much as twice that in each of many arenas, one for every thread that compresses or writes: a multiple of what is in use.
/// To be called before there are other threads.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "there is no other way to set it from within")]
pub(crate) fn give_back() {
    for (parameter, value) in
        [(libc::M_ARENA_MAX, 2), (libc::M_MMAP_THRESHOLD, 1 << 20), (libc::M_TRIM_THRESHOLD, 1 << 20)]
    {
        // SAFETY: it takes two numbers and changes settings of the allocator, which no other thread uses meanwhile: there is
        // none. What it refuses stays as it was.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Other allocators are left as they are.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn give_back() {}
