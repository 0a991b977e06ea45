//! Replays the corpus of the fuzz targets beyond `proto`, so that whatever a fuzzer once found stays found.

// For the fuzz workspace, which shares it, the functions are public.
#[allow(unreachable_pub)]
#[path = "../../fuzz/src/stored.rs"]
mod stored;

mod targets {
    /// One target: whatever the bytes, it returns.
    pub(crate) type Target = fn(&[u8]);
}

use std::fs;
use std::path::Path;

#[test]
fn every_input_of_the_corpus_does_no_harm() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, run) in stored::STORED {
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
}
