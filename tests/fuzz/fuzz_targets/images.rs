#![no_main]

#[path = "../../common/parsers.rs"]
#[allow(dead_code, reason = "the properties of the other parsers")]
mod parsers;

libfuzzer_sys::fuzz_target!(|data: &[u8]| parsers::image_list(data));
