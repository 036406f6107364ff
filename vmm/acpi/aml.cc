#include "vmm/acpi/aml.h"

#include <stdlib.h>

#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"
#include "vmm/device/hardware_id.h"

namespace bulkhead::vmm::aml {
namespace {

// A programmer's invariant; there is no absl/log.
void Check(bool condition) {
  if (!condition) abort();
}

template <typename T>
void AppendLittleEndian(Bytes& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) out.push_back(static_cast<uint8_t>(value >> 8 * i));
}

void Append(Bytes& out, const Bytes& bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); }

// "WAKE", or "\\_SB_.WAKE".
Bytes NameString(absl::string_view name) {
  Bytes out;
  if (absl::ConsumePrefix(&name, "\\")) {
    constexpr uint8_t kTwoSegments = 0x2e;
    Check(name.size() == 9 && name[4] == '.');
    out = {'\\', kTwoSegments};
    Append(out, NameString(name.substr(0, 4)));
    name.remove_prefix(5);
  }
  Check(name.size() == 4 && !absl::ascii_isdigit(static_cast<unsigned char>(name[0])));
  for (const char c : name) {
    Check(absl::ascii_isupper(static_cast<unsigned char>(c)) ||
          absl::ascii_isdigit(static_cast<unsigned char>(c)) || c == '_');
    out.push_back(static_cast<uint8_t>(c));
  }
  return out;
}

// PkgLength (section 20.2.4) followed by the contents. The length includes its own bytes.
Bytes WithLength(const Bytes& body) {
  Bytes out;
  if (body.size() + 1 < 1 << 6) {
    out.push_back(static_cast<uint8_t>(body.size() + 1));
  } else {
    size_t following = 1;
    while (body.size() + 1 + following >= size_t{1} << (4 + 8 * following)) ++following;
    Check(following <= 3);
    const size_t length = body.size() + 1 + following;
    out.push_back(static_cast<uint8_t>(following << 6 | (length & 0xf)));
    for (size_t i = 0; i < following; ++i) {
      out.push_back(static_cast<uint8_t>(length >> (4 + 8 * i)));
    }
  }
  Append(out, body);
  return out;
}

Bytes Op(std::initializer_list<uint8_t> opcode, const Bytes& operands) {
  Bytes out(opcode);
  Append(out, operands);
  return out;
}

// Address space descriptors (sections 6.4.3.5.1 to 6.4.3.5.3): word, double word, quad word.
enum class SpaceType : uint8_t { kMemory = 0, kPort = 1, kBus = 2 };

template <typename T>
Bytes AddressSpace(uint8_t tag, SpaceType type, uint8_t type_flags, T first, T last) {
  Check(first <= last);
  constexpr uint8_t kProducerFixedRange = 0x0c;  // minimum and maximum are fixed, positive decode
  Bytes out = {tag};
  AppendLittleEndian<uint16_t>(out, 3 + 5 * sizeof(T));
  out.push_back(static_cast<uint8_t>(type));
  out.push_back(kProducerFixedRange);
  out.push_back(type_flags);
  AppendLittleEndian<T>(out, 0);  // granularity
  AppendLittleEndian<T>(out, first);
  AppendLittleEndian<T>(out, last);
  AppendLittleEndian<T>(out, 0);  // translation
  // The length of the whole range does not fit into T.
  Check(last - first != std::numeric_limits<T>::max());
  AppendLittleEndian<T>(out, static_cast<T>(last - first + 1));
  return out;
}

constexpr uint8_t kMemoryReadWrite = 0x01;  // and non-cacheable: right for every BAR
constexpr uint8_t kPortEntireRange = 0x03;

}  // namespace

Bytes Concat(std::initializer_list<Bytes> parts) {
  Bytes out;
  for (const Bytes& part : parts) Append(out, part);
  return out;
}

Bytes Integer(uint64_t value) {
  Bytes out;
  if (value <= 1) {
    out.push_back(static_cast<uint8_t>(value));  // ZeroOp, OneOp
  } else if (value <= 0xff) {
    out.push_back(0x0a);
    AppendLittleEndian(out, static_cast<uint8_t>(value));
  } else if (value <= 0xffff) {
    out.push_back(0x0b);
    AppendLittleEndian(out, static_cast<uint16_t>(value));
  } else if (value <= 0xffffffff) {
    out.push_back(0x0c);
    AppendLittleEndian(out, static_cast<uint32_t>(value));
  } else {
    out.push_back(0x0e);
    AppendLittleEndian(out, value);
  }
  return out;
}

Bytes String(absl::string_view text) {
  Bytes out = {0x0d};
  for (const char c : text) {
    Check(c > 0);
    out.push_back(static_cast<uint8_t>(c));
  }
  out.push_back(0);
  return out;
}

Bytes Buffer(const Bytes& contents) {
  return Op({0x11}, WithLength(Concat({Integer(contents.size()), contents})));
}

Bytes Package(const std::vector<Bytes>& elements) {
  Check(elements.size() <= 255);
  Bytes body = {static_cast<uint8_t>(elements.size())};
  for (const Bytes& element : elements) Append(body, element);
  return Op({0x12}, WithLength(body));
}

Bytes EisaId(absl::string_view id) {
  Check(IsEisaId(id));
  // Three letters of 5 bits, four hexadecimal digits, most significant byte first.
  uint32_t packed = 0;
  for (const char c : id.substr(0, 3)) packed = packed << 5 | static_cast<uint32_t>(c - 'A' + 1);
  for (const char c : id.substr(3)) {
    packed = packed << 4 | static_cast<uint32_t>(c <= '9' ? c - '0' : c - 'A' + 10);
  }
  return Integer(__builtin_bswap32(packed));
}

Bytes Name(absl::string_view name, const Bytes& object) {
  return Op({0x08}, Concat({NameString(name), object}));
}

Bytes Scope(absl::string_view name, std::initializer_list<Bytes> terms) {
  return Op({0x10}, WithLength(Concat({NameString(name), Concat(terms)})));
}

Bytes Device(absl::string_view name, std::initializer_list<Bytes> terms) {
  return Op({0x5b, 0x82}, WithLength(Concat({NameString(name), Concat(terms)})));
}

Bytes Method(absl::string_view name, uint8_t arguments, std::initializer_list<Bytes> terms) {
  Check(arguments <= 7);
  return Op({0x14}, WithLength(Concat({NameString(name), {arguments}, Concat(terms)})));
}

Bytes Argument(uint8_t index) {
  Check(index <= 6);
  return {static_cast<uint8_t>(0x68 + index)};
}

Bytes Equal(const Bytes& left, const Bytes& right) { return Op({0x93}, Concat({left, right})); }

Bytes If(const Bytes& condition, std::initializer_list<Bytes> terms) {
  return Op({0xa0}, WithLength(Concat({condition, Concat(terms)})));
}

Bytes Return(const Bytes& value) { return Op({0xa4}, value); }

Bytes Notify(absl::string_view name, uint8_t value) {
  return Op({0x86}, Concat({NameString(name), Integer(value)}));
}

Bytes ResourceTemplate(std::initializer_list<Bytes> descriptors) {
  // The end tag's checksum may be zero: "treated as correct".
  return Buffer(Concat({Concat(descriptors), {0x79, 0x00}}));
}

Bytes IoPorts(uint16_t base, uint8_t size) {
  Check(size > 0);
  Bytes out = {0x47, 0x01};  // decodes 16 bits
  AppendLittleEndian(out, base);
  AppendLittleEndian(out, base);
  out.push_back(1);  // alignment
  out.push_back(size);
  return out;
}

Bytes Memory32Fixed(uint32_t base, uint32_t size_bytes) {
  Bytes out = {0x86, 9, 0, 0x01};  // read/write
  AppendLittleEndian(out, base);
  AppendLittleEndian(out, size_bytes);
  return out;
}

Bytes EdgeInterrupt(uint32_t gsi) {
  // Extended interrupt: consumer, edge, active high, exclusive; one interrupt.
  Bytes out = {0x89, 6, 0, 0x03, 1};
  AppendLittleEndian(out, gsi);
  return out;
}

Bytes BusNumbers(uint16_t first, uint16_t last) {
  return AddressSpace<uint16_t>(0x88, SpaceType::kBus, 0, first, last);
}

Bytes PortWindow(uint16_t first, uint16_t last) {
  return AddressSpace<uint16_t>(0x88, SpaceType::kPort, kPortEntireRange, first, last);
}

Bytes MemoryWindow32(uint32_t first, uint32_t last) {
  return AddressSpace<uint32_t>(0x87, SpaceType::kMemory, kMemoryReadWrite, first, last);
}

Bytes MemoryWindow64(uint64_t first, uint64_t last) {
  return AddressSpace<uint64_t>(0x8a, SpaceType::kMemory, kMemoryReadWrite, first, last);
}

}  // namespace bulkhead::vmm::aml
