#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| walkeep_fuzz::stored::journal(data));
