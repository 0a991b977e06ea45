//! Replays the corpus of the fuzz targets, so that whatever a fuzzer once found stays found, on any compiler.

#![cfg(feature = "client")]

// For the fuzz workspace, which shares it, the functions are public.
#[allow(unreachable_pub)]
#[path = "../../fuzz/src/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

#[test]
fn every_input_of_the_corpus_does_no_harm() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, run) in targets::TARGETS {
        let folder = corpus.join(name);
        let inputs = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut count = 0;
        for input in inputs {
            let path = input.unwrap().path();
            println!("{}", path.display());
            run(&fs::read(path).unwrap());
            count += 1;
        }
        assert!(count > 0, "{name} has no inputs");
        run(&[]);
    }
    // Those of the other crates are replayed in `agent/tests/corpus.rs`.
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets");
    for folder in fs::read_dir(&corpus).unwrap() {
        let program = programs.join(folder.unwrap().file_name()).with_extension("rs");
        assert!(program.exists(), "{} is not there: a folder without a target", program.display());
    }
}
