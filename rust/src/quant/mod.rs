//! How GGUF stores numbers: blocks of weights that share a scale. Takes a type's number in the file, gives
//! its block size and name; turning blocks into float32 is [`dequantize`]'s part.

pub mod dequantize;
mod super_blocks;

/// A type that ecocore can turn into float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// float32 as it is.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a float32.
    Bf16,
    /// 32 weights in 18 bytes: float16 scale, then 4 bits each around 8.
    Q4_0,
    /// 32 weights in 20 bytes: float16 scale, float16 minimum, then 4 bits each.
    Q4_1,
    /// 32 weights in 22 bytes: float16 scale, then 5 bits each around 16, the fifth ones first.
    Q5_0,
    /// 32 weights in 24 bytes: float16 scale, float16 minimum, then 5 bits each, the fifth ones first.
    Q5_1,
    /// 32 weights in 34 bytes: float16 scale, then a signed byte each.
    Q8_0,
    /// 256 weights in 84 bytes: 2 bits each, in sixteens with a scale and a minimum of 4 bits.
    Q2K,
    /// 256 weights in 110 bytes: 3 bits each, in sixteens with a scale of 6 bits.
    Q3K,
    /// 256 weights in 144 bytes: 4 bits each, in groups of 32 with a scale and a minimum of 6 bits.
    Q4K,
    /// 256 weights in 176 bytes: 5 bits each, in groups of 32 with a scale and a minimum of 6 bits.
    Q5K,
    /// 256 weights in 210 bytes: 6 bits each, in sixteens with a scale of 8 bits.
    Q6K,
    /// 32 weights in 18 bytes: float16 scale, then 4 bits each that name one of 16 levels.
    Iq4Nl,
    /// 256 weights in 136 bytes: 4 bits each that name a level, in groups of 32 with a scale of 6 bits.
    Iq4Xs,
}

/// A tensor type of the GGUF format, supported or not: its size is known, so that a file opens whose other
/// tensors are of use.
#[derive(Debug, PartialEq, Eq)]
pub struct TensorType {
    /// Name as GGUF tools print it, such as "Q4_1".
    pub name: &'static str,
    /// Weights in one block; a tensor's fastest dimension is a multiple of it.
    pub block_len: usize,
    /// Bytes of one block.
    pub block_bytes: usize,
    /// How to read it, or None where ecocore cannot.
    pub encoding: Option<Encoding>,
}

impl TensorType {
    /// The type with this number in the file, or None if the format has no such type.
    pub fn from_id(id: u32) -> Option<&'static Self> {
        TYPES.iter().find(|(known, _)| *known == id).map(|(_, kind)| kind)
    }
}

const fn readable(
    name: &'static str,
    block_len: usize,
    block_bytes: usize,
    encoding: Encoding,
) -> TensorType {
    TensorType { name, block_len, block_bytes, encoding: Some(encoding) }
}

const fn sized(name: &'static str, block_len: usize, block_bytes: usize) -> TensorType {
    TensorType { name, block_len, block_bytes, encoding: None }
}

/// Numbers that are missing here were given to types which the format has dropped.
static TYPES: [(u32, TensorType); 34] = [
    (0, readable("F32", 1, 4, Encoding::F32)),
    (1, readable("F16", 1, 2, Encoding::F16)),
    (2, readable("Q4_0", 32, 18, Encoding::Q4_0)),
    (3, readable("Q4_1", 32, 20, Encoding::Q4_1)),
    (6, readable("Q5_0", 32, 22, Encoding::Q5_0)),
    (7, readable("Q5_1", 32, 24, Encoding::Q5_1)),
    (8, readable("Q8_0", 32, 34, Encoding::Q8_0)),
    (9, sized("Q8_1", 32, 40)),
    (10, readable("Q2_K", 256, 84, Encoding::Q2K)),
    (11, readable("Q3_K", 256, 110, Encoding::Q3K)),
    (12, readable("Q4_K", 256, 144, Encoding::Q4K)),
    (13, readable("Q5_K", 256, 176, Encoding::Q5K)),
    (14, readable("Q6_K", 256, 210, Encoding::Q6K)),
    (15, sized("Q8_K", 256, 292)),
    (16, sized("IQ2_XXS", 256, 66)),
    (17, sized("IQ2_XS", 256, 74)),
    (18, sized("IQ3_XXS", 256, 98)),
    (19, sized("IQ1_S", 256, 50)),
    (20, readable("IQ4_NL", 32, 18, Encoding::Iq4Nl)),
    (21, sized("IQ3_S", 256, 110)),
    (22, sized("IQ2_S", 256, 82)),
    (23, readable("IQ4_XS", 256, 136, Encoding::Iq4Xs)),
    (24, sized("I8", 1, 1)),
    (25, sized("I16", 1, 2)),
    (26, sized("I32", 1, 4)),
    (27, sized("I64", 1, 8)),
    (28, sized("F64", 1, 8)),
    (29, sized("IQ1_M", 256, 56)),
    (30, readable("BF16", 1, 2, Encoding::Bf16)),
    (34, sized("TQ1_0", 256, 54)),
    (35, sized("TQ2_0", 256, 66)),
    (39, sized("MXFP4", 32, 17)),
    (40, sized("NVFP4", 64, 36)),
    (41, sized("Q1_0", 128, 18)),
];
