#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| walkeep_fuzz::targets::copy_messages(data));
