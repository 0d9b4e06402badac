#include "engine/io/safetensors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "tests/fuzz/format_check.h"
#include "tests/harness/op_check.h"
#include "tests/harness/program.h"

namespace sidechannel {
namespace {

using fuzz::array;
using fuzz::BadFile;
using fuzz::Bytes;
using fuzz::bytes_of;
using fuzz::expect_equal;
using harness::error_of;

// A file of this header, its length before it and `data` zero bytes behind it.
Bytes file_of(std::string_view header, std::size_t data = 0) {
  const std::uint64_t length = header.size();
  Bytes file(sizeof(length) + header.size() + data);
  std::memcpy(file.data(), &length, sizeof(length));
  std::ranges::copy(std::as_bytes(std::span(header)), file.begin() + sizeof(length));
  return file;
}

// A file of nothing but a header's length.
Bytes length_of(std::uint64_t length) {
  Bytes file(sizeof(length));
  std::memcpy(file.data(), &length, sizeof(length));
  return file;
}

// Every type, ranks 0 to 4, an empty tensor, names and metadata that need escapes.
SafetensorsFile sample() {
  SafetensorsFile file;
  file.tensors["conv.weight"] = array<float>({1, -2, 3.5f, 0, 1e-30f, -0.0f}, {1, 3, 2});
  file.tensors["loss"] = array<double>({0.1}, {});
  file.tensors["step"] = array<std::int64_t>({-1, 1LL << 40}, {2});
  file.tensors["index"] = array<std::int32_t>({7, -8, 9}, {3, 1});
  file.tensors["state"] = array<std::uint8_t>({0, 255, 128}, {1, 1, 3, 1});
  file.tensors["mask"] = array<bool>({true, false, true}, {3});
  file.tensors["none"] = HostArray(DType::kF32, {2, 0, 3});
  file.tensors["quote\" newline\n \xc3\xa9"] = array<float>({2}, {1});
  file.tensors[""] = array<float>({4}, {1});
  file.metadata = {{"format", "pt"}, {"", ""}, {"config", "{\"seed\": 1}\n"}};
  return file;
}

TEST(Safetensors, ReadsWhatItWrites) {
  const Bytes bytes = serialize_safetensors(sample());
  expect_equal(parse_safetensors(bytes, "f"), sample());
  expect_equal(parse_safetensors(serialize_safetensors({}), "f"), {});
  EXPECT_EQ(serialize_safetensors(parse_safetensors(bytes, "f")), bytes);
}

TEST(Safetensors, WritesTheseBytes) {
  SafetensorsFile file;
  file.tensors["b"] = array<std::uint8_t>({'x', 'y', 'z'}, {3});
  file.tensors["z"] = array<std::int64_t>({0x6867666564636261}, {});
  file.tensors["y"] = array<std::int32_t>({0x34333231}, {1, 1});
  file.tensors["a"] = array<std::uint8_t>({'0'}, {1});
  file.metadata["format"] = "pt";
  const std::string header = R"({"__metadata__":{"format":"pt","sidechannel.crc32":"37fcd5d4"},)"
                             R"("z":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
                             R"("y":{"dtype":"I32","shape":[1,1],"data_offsets":[8,12]},)"
                             R"("a":{"dtype":"U8","shape":[1],"data_offsets":[12,13]},)"
                             R"("b":{"dtype":"U8","shape":[3],"data_offsets":[13,16]}} )";
  ASSERT_EQ(header.size() % 8, 0u);
  Bytes expected = file_of(header);
  const Bytes data = bytes_of("abcdefgh12340xyz");
  expected.insert(expected.end(), data.begin(), data.end());
  EXPECT_EQ(serialize_safetensors(file), expected);
}

TEST(Safetensors, ReadsAndWritesFiles) {
  const harness::TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "model.safetensors";
  write_safetensors(path, {}, KeepPrevious::kYes);
  write_safetensors(path, sample(), KeepPrevious::kYes);
  expect_equal(read_safetensors(path), sample());
  expect_equal(read_safetensors(previous_of(path)), {});
  write_file_durably(path, bytes_of("short"));
  EXPECT_EQ(error_of([&] { read_safetensors(path); }),
            path.string() + ": expected at least 8 bytes, got 5");
  SafetensorsFile bad;
  bad.tensors["a"].shape = {3};
  EXPECT_EQ(error_of([&] { write_safetensors(path, bad); }),
            path.string() + ": cannot write tensor \"a\": expected 12 bytes for [3], got 0");
}

TEST(Safetensors, RefusesToWriteWhatCannotBeRead) {
  const auto writing = [](const SafetensorsFile& file) {
    return error_of([&] { serialize_safetensors(file); });
  };
  const HostArray one = array<float>({1}, {});
  EXPECT_EQ(writing({{{"__metadata__", one}}, {}}),
            "cannot write tensor \"__metadata__\": the name is reserved");
  EXPECT_EQ(writing({{{"\xff", one}}, {}}), "cannot write a name or metadata that is not UTF-8");
  EXPECT_EQ(writing({{}, {{"key", "\xff"}}}), "cannot write a name or metadata that is not UTF-8");
  EXPECT_EQ(writing({{}, {{"key", std::string(100'000'000, 'x')}}}),
            "cannot write a header of 100000064 bytes: the format allows 100000000");
}

TEST(Safetensors, ReadsFilesOfOtherWriters) {
  // No metadata, keys in another order, white space, entries in another order than their data.
  const auto file = parse_safetensors(
      file_of("{ \"b\" : {\"data_offsets\":[4,12],\n\"shape\":[1,2],\t\"dtype\":\"F32\"},"
              "\"a\":{\"dtype\":\"I32\",\"data_offsets\":[0,4],\"shape\":[]}} \n ",
              12),
      "f");
  EXPECT_TRUE(file.tensors.at("b").shape == Shape({1, 2}));
  EXPECT_EQ(file.tensors.at("a").dtype, DType::kI32);
  expect_equal(parse_safetensors(file_of("{}"), "f"), {});
  expect_equal(parse_safetensors(file_of(R"({"__metadata__":{}})"), "f"), {});
  // Empty tensors share their place with others.
  const auto empties =
      parse_safetensors(file_of(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[4,4]},)"
                                R"("b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                                R"("c":{"dtype":"F64","shape":[3,0],"data_offsets":[0,0]}})",
                                4),
                        "f");
  EXPECT_EQ(empties.tensors.size(), 3u);
}

std::string tensor(std::string_view fields) {
  return fmt::format("{{\"a\":{{{}}}}}", fields);
}

// A header of one tensor of this type and shape with this claim to the data.
std::string tensor(std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return tensor(
      fmt::format("\"dtype\":{},\"shape\":{},\"data_offsets\":{}", dtype, shape, offsets));
}

std::vector<BadFile> bad_files() {
  const std::string overflows = ": expected at most 9223372036854775807 bytes, at 8 an element";
  const std::string f32 = "\"F32\"";
  const std::string good = R"("dtype":"F32","shape":[1],"data_offsets":[0,4])";
  const std::string two = R"({{"a":{{"dtype":"U8","shape":[2],"data_offsets":[{}]}},)"
                          R"("b":{{"dtype":"U8","shape":[2],"data_offsets":[{}]}}}})";
  // Of f32 and 4 bytes of data, if not told otherwise.
  const auto of_shape = [&](std::string_view shape, std::string_view offsets = "[0,4]") {
    return file_of(tensor(f32, shape, offsets), offsets == "[0,0]" ? 0 : 4);
  };
  const auto of_dtype = [](std::string_view dtype, std::string_view shape = "[1]") {
    return file_of(tensor(dtype, shape, "[0,4]"), 4);
  };
  const std::string a = "tensor \"a\": ";
  const std::string in_shape = a + "\"shape\": expected ";
  const std::string unsigned_in_shape = in_shape + "an unsigned integer, got ";
  const std::string in_offsets = a + "\"data_offsets\": expected ";
  return {
      {"empty", {}, "expected at least 8 bytes, got 0"},
      {"no_length", Bytes(7), "expected at least 8 bytes, got 7"},
      {"no_header", length_of(2), "expected a header of 2 bytes, got only 0"},
      {"length_past_the_end",
       [] {
         auto f = file_of("{}");
         f[0] = std::byte{3};
         return f;
       }(),
       "expected a header of 3 bytes, got only 2"},
      {"length_at_the_cap", length_of(100'000'000),
       "expected a header of 100000000 bytes, got only 0"},
      {"length_over_the_cap", length_of(100'000'001),
       "expected a header of at most 100000000 bytes, got 100000001"},
      {"length_of_all_ones", length_of(~std::uint64_t{0}),
       "expected a header of at most 100000000 bytes, got 18446744073709551615"},
      {"header_empty", file_of(""), "expected a header that begins with '{', got \"\""},
      {"header_array", file_of("[]"), "expected a header that begins with '{', got \"[\""},
      {"header_space_first", file_of(" {}"), "expected a header that begins with '{', got \" \""},
      {"header_byte_order_mark", file_of("\xef\xbb\xbf{}"),
       "expected a header that begins with '{', got \"\\xef\""},
      {"header_zero_byte", file_of(std::string_view("{}\0 trailing", 12)),
       "expected text in the header, got a zero byte at 2"},
      {"json_unclosed", file_of("{"), "expected JSON, got its end at byte 1 of the header"},
      {"json_two_values", file_of("{} {}"), R"(expected JSON, got "{" at byte 3 of the header)"},
      {"json_trailing_comma", file_of(tensor(good + ",")),
       R"(expected JSON, got "}" at byte 53 of the header)"},
      {"json_single_quotes", file_of("{'a':1}"),
       R"(expected JSON, got "'" at byte 1 of the header)"},
      {"json_comment", file_of("{}//"), R"(expected JSON, got "/" at byte 2 of the header)"},
      {"json_not_utf8", file_of("{\"\xff\":1}"),
       "expected JSON, got \"\\xff\" at byte 2 of the header"},
      {"json_bare_newline_in_string", file_of("{\"a\nb\":1}"),
       "expected JSON, got \"\\x0a\" at byte 3 of the header"},
      {"json_leading_zero", of_shape("[01]"), R"(expected JSON, got "1" at byte 30 of the header)"},
      {"json_huge_float", of_shape("[1e999]"),
       R"(expected JSON, got "9" at byte 33 of the header)"},
      {"json_nan", of_shape("[NaN]"), R"(expected JSON, got "N" at byte 29 of the header)"},
      {"tensor_twice", file_of(fmt::format("{{\"a\":{{{0}}},\"a\":{{{0}}}}}", good), 4),
       a + "expected one value, got two"},
      {"tensor_twice_by_escape",
       file_of(fmt::format("{{\"b\":{{{0}}},\"\\u0062\":{{{0}}}}}", good), 4),
       R"(tensor "b": expected one value, got two)"},
      {"metadata_twice", file_of(R"({"__metadata__":{},"__metadata__":{}})"),
       "__metadata__: expected one value, got two"},
      {"metadata_key_twice", file_of(R"({"__metadata__":{"k":"v","k":"v"}})"),
       R"(__metadata__: "k": expected one value, got two)"},
      {"dtype_twice", file_of(tensor(good + R"(,"dtype":"F32")"), 4),
       a + R"("dtype": expected one value, got two)"},
      {"shape_twice", file_of(tensor(good + R"(,"shape":[1])"), 4),
       in_shape + "one value, got two"},
      {"data_offsets_twice", file_of(tensor(good + R"(,"data_offsets":[0,4])"), 4),
       in_offsets + "one value, got two"},
      {"dtype_missing", file_of(tensor(R"("shape":[1],"data_offsets":[0,4])"), 4),
       a + "expected a dtype, got none"},
      {"shape_missing", file_of(tensor(R"("dtype":"F32","data_offsets":[0,4])"), 4),
       a + "expected a shape, got none"},
      {"data_offsets_missing", file_of(tensor(R"("dtype":"F32","shape":[1])"), 4),
       a + "expected a data_offsets, got none"},
      {"unknown_key", file_of(tensor(good + R"(,"strides":[1])"), 4),
       a + R"("strides": unexpected key, expected dtype, shape or data_offsets)"},
      {"tensor_number", file_of(R"({"a":4})"), a + "expected an object, got 4"},
      {"tensor_null", file_of(R"({"a":null})"), a + "expected an object, got null"},
      {"tensor_array", file_of(R"({"a":[]})"), a + "expected an object, got an array"},
      {"metadata_string", file_of(R"({"__metadata__":"x"})"),
       "__metadata__: expected an object, got a string"},
      {"metadata_null", file_of(R"({"__metadata__":null})"),
       "__metadata__: expected an object, got null"},
      {"metadata_value_number", file_of(R"({"__metadata__":{"epoch":3}})"),
       R"(__metadata__: "epoch": expected a string, got 3)"},
      {"metadata_value_object", file_of(R"({"__metadata__":{"config":{}}})"),
       R"(__metadata__: "config": expected a string, got an object)"},
      {"metadata_value_array", file_of(R"({"__metadata__":{"list":[]}})"),
       R"(__metadata__: "list": expected a string, got an array)"},
      {"dtype_number", of_dtype("32"), a + R"("dtype": expected a string, got 32)"},
      {"dtype_array", of_dtype("[]"), a + R"("dtype": expected a string, got an array)"},
      {"dtype_unknown", of_dtype("\"F128\""), a + R"(expected a dtype of the format, got "F128")"},
      {"dtype_lower_case", of_dtype("\"f32\""), a + R"(expected a dtype of the format, got "f32")"},
      {"dtype_unsupported", of_dtype("\"BF16\"", "[2]"),
       a + "expected F32, F64, I32, I64, U8 or BOOL, got BF16, "
           "which is not supported here"},
      {"shape_string", of_shape("\"1\""), in_shape + "an array, got a string"},
      {"shape_object", of_shape("{}"), in_shape + "an array, got an object"},
      {"shape_nested", of_shape("[[1]]"), unsigned_in_shape + "an array"},
      {"shape_of_objects", of_shape("[{}]"), unsigned_in_shape + "an object"},
      {"shape_of_strings", of_shape("[\"1\"]"), unsigned_in_shape + "a string"},
      {"shape_of_booleans", of_shape("[true]"), unsigned_in_shape + "true"},
      {"shape_negative", of_shape("[-1]"), unsigned_in_shape + "-1"},
      {"shape_minus_zero", of_shape("[-0]", "[0,0]"), unsigned_in_shape + "-0"},
      {"shape_fraction", of_shape("[1.0]"), unsigned_in_shape + "1.0"},
      {"shape_exponent", of_shape("[1e0]"), unsigned_in_shape + "1e0"},
      {"shape_dim_over_64_bits", of_shape("[18446744073709551616]"),
       unsigned_in_shape + "18446744073709551616"},
      {"shape_of_rank_5", of_shape("[1,1,1,1,1]"), in_shape + "at most 4 numbers, got more"},
      {"size_overflows", of_shape("[4611686018427387904,4]"),
       a + "shape [4611686018427387904, 4]" + overflows},
      {"size_overflows_by_width", of_shape("[4611686018427387904]", "[0,0]"),
       a + "shape [4611686018427387904]" + overflows},
      {"size_overflows_before_zero", of_shape("[4294967296,4294967296,0]", "[0,0]"),
       a + "shape [4294967296, 4294967296, 0]" + overflows},
      {"dim_over_63_bits_after_zero", of_shape("[0,9223372036854775808]", "[0,0]"),
       a + "shape [0, 9223372036854775808]" + overflows},
      {"offsets_one", of_shape("[1]", "[4]"), in_offsets + "2 numbers, got 1"},
      {"offsets_none", of_shape("[1]", "[]"), in_offsets + "2 numbers, got 0"},
      {"offsets_three", of_shape("[1]", "[0,4,4]"), in_offsets + "at most 2 numbers, got more"},
      {"offsets_negative", of_shape("[1]", "[-4,0]"), in_offsets + "an unsigned integer, got -4"},
      {"offsets_string", of_shape("[1]", "\"0,4\""), in_offsets + "an array, got a string"},
      {"offsets_reversed", of_shape("[1]", "[4,0]"),
       a + "expected data_offsets in order, got [4, 0]"},
      {"offsets_past_the_end", of_shape("[2]", "[0,8]"),
       a + "expected data to byte 8, got only 4 bytes"},
      {"offsets_of_all_ones", of_shape("[1]", "[18446744073709551611,18446744073709551615]"),
       a + "expected data to byte 18446744073709551615, got only 4 bytes"},
      {"offsets_too_few_bytes", of_shape("[2]"),
       a + "expected 8 bytes for F32 [2], got data_offsets of 4"},
      {"offsets_too_many_bytes", file_of(tensor("\"U8\"", "[]", "[0,2]"), 2),
       a + "expected 1 bytes for U8 [], got data_offsets of 2"},
      {"hole_at_the_start", file_of(tensor("\"U8\"", "[2]", "[1,3]"), 3),
       a + "expected data from byte 0 on, got 1: there is a hole"},
      {"hole_in_the_middle", file_of(fmt::format(fmt::runtime(two), "0,2", "3,5"), 5),
       R"(tensor "b": expected data from byte 2 on, got 3: there is a hole)"},
      {"overlap", file_of(fmt::format(fmt::runtime(two), "0,2", "1,3"), 3),
       R"(tensor "b": expected data from byte 2 on, got 1: tensors overlap)"},
      {"overlap_whole", file_of(fmt::format(fmt::runtime(two), "0,2", "0,2"), 2),
       R"(tensor "b": expected data from byte 2 on, got 0: tensors overlap)"},
      {"tail", file_of(tensor(f32, "[1]", "[0,4]"), 5), "expected 4 bytes of data, got 5"},
      {"tail_without_tensors", file_of("{}", 1), "expected 0 bytes of data, got 1"},
      {"bool_of_two",
       [] {
         auto f = file_of(tensor("\"BOOL\"", "[3]", "[0,3]"), 3);
         f.back() = std::byte{2};
         return f;
       }(),
       a + "expected a bool of 0 or 1 at element 2, got 2"},
      {"checksum_wrong", file_of(R"({"__metadata__":{"sidechannel.crc32":"00000001"}})"),
       R"(checksum mismatch: expected "00000001", got "00000000")"},
      {"checksum_malformed", file_of(R"({"__metadata__":{"sidechannel.crc32":"0x0"}})"),
       R"(checksum mismatch: expected "0x0", got "00000000")"},
  };
}

TEST(Safetensors, RefusesEachBadFileInItsOwnWords) {
  fuzz::expect_refusals(bad_files(), parse_safetensors);
}

TEST(Safetensors, RefusesDeepNestingAtItsFirstStep) {
  for (const std::string& deep : {std::string(1'000'000, '['), std::string(1'000'000, '{')}) {
    EXPECT_THROW(parse_safetensors(file_of(deep), "f"), Error);
    EXPECT_THROW(parse_safetensors(file_of("{\"a\":" + deep), "f"), Error);
    EXPECT_THROW(parse_safetensors(file_of("{\"__metadata__\":{\"k\":" + deep), "f"), Error);
    EXPECT_THROW(parse_safetensors(file_of(tensor("\"F32\"", "[" + deep, "[0,4]")), "f"), Error);
  }
}

TEST(Safetensors, RefusesEveryTruncation) {
  const Bytes bytes = serialize_safetensors(sample());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_THROW(parse_safetensors(std::span(bytes).first(size), "f"), Error) << size;
  }
}

bool parses(const Bytes& bytes) {
  return fuzz::parses(bytes, parse_safetensors, serialize_safetensors);
}

TEST(Safetensors, SurvivesEveryBitFlip) {
  Bytes bytes = serialize_safetensors(sample());
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    const auto mask = std::byte(1 << (bit % 8));
    bytes[bit / 8] ^= mask;
    if (bit / 8 < sizeof(length) + length) {
      parses(bytes);
    } else {
      const std::string message = error_of([&] { parse_safetensors(bytes, "f"); });
      EXPECT_TRUE(message.starts_with("f: checksum mismatch: expected ")) << message;
    }
    bytes[bit / 8] ^= mask;
  }
}

// Every other time the length before the header is made to fit again, so that edits of the header
// get past the first check.
Bytes mutated(Bytes bytes, fuzz::Mutator& mutator) {
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  const std::size_t data = bytes.size() - sizeof(length) - length;
  mutator.edit(bytes);
  if (mutator.below(2) == 0 && bytes.size() >= sizeof(length) + data) {
    length = bytes.size() - sizeof(length) - data;
    std::memcpy(bytes.data(), &length, sizeof(length));
  }
  return bytes;
}

TEST(Safetensors, SurvivesFuzzing) {
  const std::vector<Bytes> seeds = {
      serialize_safetensors(sample()), serialize_safetensors({}),
      file_of(tensor("\"F32\"", "[2,1]", "[0,8]"), 8),
      file_of(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
              R"("b":{"dtype":"BOOL","shape":[],"data_offsets":[2,3]}})",
              3)};
  fuzz::Mutator mutator(
      1,
      "{ } [ ] , : \" null true -1 -0 0.5 1e9 0 4 8 9223372036854775807 9223372036854775808 "
      "18446744073709551615 18446744073709551616 \"BOOL\" \"F64\" \"BF16\" \"dtype\": "
      "\"shape\":[ \"data_offsets\":[0, \"__metadata__\":{ sidechannel.crc32 \\u0000 \\ud800 \xff",
      "[{9");
  fuzz::expect_survival(
      [&](std::size_t i) { return parses(mutated(seeds[i % seeds.size()], mutator)); });
}

}  // namespace
}  // namespace sidechannel
