/* A CUDA driver without a GPU, to run jitrt/runtime/driver.py and the real cuda-bindings against: device memory is host
 * memory, kernels are the three functions below, and what each graph node was given is printed when JITRT_STUB_TRACE is
 * set. test_driver.py builds it. */
#define _GNU_SOURCE
#include "cuda.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STUB(name) CUresult stub_##name
#define OK return CUDA_SUCCESS
#define MAX_PARAMETERS 16
#define STREAM ((CUstream)0x57A0)

/* -- kernels: their parameters have these sizes, as a cubin would say ---------------------------------------------- */

typedef struct {
  const char *name;
  int count, sizes[MAX_PARAMETERS];
  void (*run)(void **parameters);
  int attributes[64];
} Function;

static void add(void **p) {
  float *a = *(float **)p[0], *b = *(float **)p[1], *out = *(float **)p[2];
  for (int i = 0; i < *(int *)p[3]; i++) out[i] = a[i] + b[i];
}

static void scale(void **p) {
  float *source = *(float **)p[0], *out = *(float **)p[1];
  for (long i = 0; i < *(long *)p[3]; i++) out[i] = source[i] * *(float *)p[2];
}

static void increment(void **p) { /* through a tensor map, whose first word is the address here */
  float *source = **(float ***)p, *out = *(float **)p[1];
  for (int i = 0; i < 32; i++) out[i] = source[i] + 1;
  if (**(int **)p[2] != 0) abort();
}

static Function functions[] = {
    {"add", 6, {8, 8, 8, 4, 8, 8}, add},
    {"scale", 6, {8, 8, 4, 8, 8, 8}, scale},
    {"increment", 5, {128, 8, 8, 8, 8}, increment},
};

/* -- device, context ------------------------------------------------------------------------------------------------ */

static CUcontext current;
static float now; /* milliseconds */

static int number(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? atoi(text) : otherwise;
}

STUB(cuInit)(unsigned flags) { return number("JITRT_STUB_INIT", 0); }
STUB(cuDriverGetVersion)(int *version) { *version = number("JITRT_STUB_VERSION", 13000); OK; }
STUB(cuDeviceGetCount)(int *count) { *count = number("JITRT_STUB_GPUS", 1); OK; }
STUB(cuDeviceGet)(CUdevice *device, int index) { *device = index; OK; }
STUB(cuDeviceGetName)(char *name, int size, CUdevice device) { snprintf(name, size, "Stub GPU"); OK; } /* and leaves the rest as it was */
STUB(cuDeviceTotalMem)(size_t *nbytes, CUdevice device) { *nbytes = 141ul << 30; OK; }
STUB(cuDeviceGetAttribute)(int *value, CUdevice_attribute attribute, CUdevice device) {
  switch (attribute) {
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; OK;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; OK;
  case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 132; OK;
  case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: *value = 60 << 20; OK;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = 227 << 10; OK;
  case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: *value = 1980000; OK;
  case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: *value = 3201000; OK;
  case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: *value = 6144; OK;
  default: return CUDA_ERROR_INVALID_VALUE;
  }
}
STUB(cuDevicePrimaryCtxRetain)(CUcontext *context, CUdevice device) { *context = (CUcontext)0xC0DE; OK; }
STUB(cuCtxGetCurrent)(CUcontext *context) { *context = current; OK; }
STUB(cuCtxPushCurrent)(CUcontext context) { current = context; OK; }
STUB(cuCtxPopCurrent)(CUcontext *context) { *context = current; current = NULL; OK; }
STUB(cuCtxSynchronize)(void) { return current ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT; }

/* -- memory --------------------------------------------------------------------------------------------------------- */

STUB(cuMemGetInfo)(size_t *free, size_t *total) { *free = 1000 << 20; *total = 2000 << 20; OK; }
STUB(cuMemAlloc)(CUdeviceptr *address, size_t nbytes) {
  if (nbytes > 1000 << 20) return CUDA_ERROR_OUT_OF_MEMORY;
  *address = (CUdeviceptr)aligned_alloc(512, (nbytes + 511) / 512 * 512);
  memset((void *)*address, 0xA5, nbytes);
  OK;
}
STUB(cuMemFree)(CUdeviceptr address) { free((void *)address); OK; }
STUB(cuMemcpyHtoDAsync)(CUdeviceptr to, const void *from, size_t n, CUstream s) { memcpy((void *)to, from, n); OK; }
STUB(cuMemcpyDtoHAsync)(void *to, CUdeviceptr from, size_t n, CUstream s) { memcpy(to, (void *)from, n); OK; }
STUB(cuMemcpyDtoDAsync)(CUdeviceptr to, CUdeviceptr from, size_t n, CUstream s) { memcpy((void *)to, (void *)from, n); OK; }
STUB(cuMemsetD8Async)(CUdeviceptr to, unsigned char value, size_t n, CUstream s) { memset((void *)to, value, n); OK; }

/* -- kernels, streams, events --------------------------------------------------------------------------------------- */

STUB(cuModuleLoadData)(CUmodule *module, const void *image) {
  if (memcmp(image, "cubin", 5)) return CUDA_ERROR_INVALID_IMAGE;
  *module = (CUmodule)0xAB0;
  OK;
}
STUB(cuModuleUnload)(CUmodule module) { OK; }
STUB(cuModuleGetFunction)(CUfunction *function, CUmodule module, const char *name) {
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
    if (!strcmp(functions[i].name, name)) { *function = (CUfunction)&functions[i]; OK; }
  return CUDA_ERROR_NOT_FOUND;
}
STUB(cuFuncSetCacheConfig)(CUfunction function, CUfunc_cache config) {
  return config == CU_FUNC_CACHE_PREFER_SHARED ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
STUB(cuFuncSetAttribute)(CUfunction function, CUfunction_attribute attribute, int value) {
  ((Function *)function)->attributes[attribute] = value;
  OK;
}
STUB(cuFuncGetAttribute)(int *value, CUfunction_attribute attribute, CUfunction function) {
  *value = attribute == CU_FUNC_ATTRIBUTE_NUM_REGS ? 64 : ((Function *)function)->attributes[attribute];
  OK;
}
STUB(cuFuncGetParamInfo)(CUfunction function, size_t index, size_t *offset, size_t *size) {
  Function *f = (Function *)function;
  if (index >= f->count) return CUDA_ERROR_INVALID_VALUE;
  *offset = 8 * index;
  *size = f->sizes[index];
  OK;
}
STUB(cuStreamCreate)(CUstream *stream, unsigned flags) {
  *stream = STREAM;
  return flags == CU_STREAM_NON_BLOCKING ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
STUB(cuStreamDestroy)(CUstream stream) { return stream == STREAM ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE; }
STUB(cuStreamSynchronize)(CUstream stream) { OK; }
STUB(cuStreamWaitEvent)(CUstream stream, CUevent event, unsigned flags) { OK; }
STUB(cuEventCreate)(CUevent *event, unsigned flags) { *event = calloc(1, sizeof(float)); OK; }
STUB(cuEventDestroy)(CUevent event) { free(event); OK; }
STUB(cuEventRecord)(CUevent event, CUstream stream) { *(float *)event = now; OK; }
STUB(cuEventSynchronize)(CUevent event) { OK; }
STUB(cuEventElapsedTime)(float *ms, CUevent start, CUevent end) { *ms = *(float *)end - *(float *)start; OK; }

/* -- graphs --------------------------------------------------------------------------------------------------------- */

typedef struct {
  Function *function;
  CUevent event;
  unsigned grid[3], block[3], shared, cluster[3], policy, cooperative;
  size_t dependencies, programmatic;
  char values[MAX_PARAMETERS][128];
} Node;

typedef struct {
  int count;
  Node *nodes[256];
} Graph;

static CUresult take(Node *node, const CUDA_KERNEL_NODE_PARAMS *p) {
  if (p->kern || p->ctx || p->extra || !p->func) return CUDA_ERROR_INVALID_VALUE;
  node->function = (Function *)p->func;
  memcpy(node->grid, &p->gridDimX, sizeof node->grid);
  memcpy(node->block, &p->blockDimX, sizeof node->block);
  node->shared = p->sharedMemBytes;
  if ((int)node->shared > 48 << 10 &&
      (int)node->shared > node->function->attributes[CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES])
    return CUDA_ERROR_INVALID_VALUE;
  for (int i = 0; i < node->function->count; i++)
    memcpy(node->values[i], p->kernelParams[i], node->function->sizes[i]);
  OK;
}

static Node *append(CUgraph graph, const CUgraphNode *after, size_t count) {
  Graph *g = (Graph *)graph;
  for (size_t i = 0; i < count; i++) {
    int found = 0;
    for (int j = 0; j < g->count; j++) found |= (CUgraphNode)g->nodes[j] == after[i];
    if (!found) return NULL;
  }
  Node *node = g->nodes[g->count++] = calloc(1, sizeof *node);
  node->dependencies = count;
  return node;
}

STUB(cuGraphCreate)(CUgraph *graph, unsigned flags) { *graph = calloc(1, sizeof(Graph)); OK; }
STUB(cuGraphDestroy)(CUgraph graph) { free(graph); OK; }
STUB(cuGraphAddKernelNode)(CUgraphNode *out, CUgraph graph, const CUgraphNode *after, size_t count,
                           const CUDA_KERNEL_NODE_PARAMS *parameters) {
  Node *node = append(graph, after, count);
  *out = (CUgraphNode)node;
  return node ? take(node, parameters) : CUDA_ERROR_INVALID_VALUE;
}
STUB(cuGraphAddEventRecordNode)(CUgraphNode *out, CUgraph graph, const CUgraphNode *after, size_t count, CUevent event) {
  Node *node = append(graph, after, count);
  *out = (CUgraphNode)node;
  if (node) node->event = event;
  return node ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
STUB(cuGraphAddDependencies_v2)(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to,
                                const CUgraphEdgeData *data, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (data[i].from_port != CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC || data[i].to_port ||
        data[i].type != CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC)
      return CUDA_ERROR_INVALID_VALUE;
    ((Node *)to[i])->programmatic++;
  }
  OK;
}
STUB(cuGraphKernelNodeSetAttribute)(CUgraphNode n, CUkernelNodeAttrID id, const CUkernelNodeAttrValue *value) {
  Node *node = (Node *)n;
  if (id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
    memcpy(node->cluster, &value->clusterDim, sizeof node->cluster);
  else if (id == CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE)
    node->policy = value->clusterSchedulingPolicyPreference;
  else if (id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE)
    node->cooperative = value->cooperative;
  else
    return CUDA_ERROR_INVALID_VALUE;
  OK;
}
STUB(cuGraphInstantiateWithFlags)(CUgraphExec *out, CUgraph graph, unsigned long long flags) {
  Graph *copy = malloc(sizeof *copy);
  *copy = *(Graph *)graph;
  *out = (CUgraphExec)copy;
  for (int i = 0; getenv("JITRT_STUB_TRACE") && i < copy->count; i++) {
    Node *n = copy->nodes[i];
    printf("%s grid %u %u %u block %u %u %u shared %u after %zu early %zu cluster %u %u %u spread %d%s\n",
           n->function ? n->function->name : "event", n->grid[0], n->grid[1], n->grid[2], n->block[0], n->block[1],
           n->block[2], n->shared, n->dependencies, n->programmatic, n->cluster[0], n->cluster[1], n->cluster[2],
           n->policy == CU_CLUSTER_SCHEDULING_POLICY_SPREAD, n->cooperative ? " cooperative" : "");
  }
  fflush(stdout);
  OK;
}
STUB(cuGraphExecDestroy)(CUgraphExec executable) { free(executable); OK; }
STUB(cuGraphExecKernelNodeSetParams)(CUgraphExec e, CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS *parameters) {
  return take((Node *)node, parameters);
}
STUB(cuGraphLaunch)(CUgraphExec executable, CUstream stream) {
  Graph *graph = (Graph *)executable;
  for (int i = 0; i < graph->count; i++) {
    Node *node = graph->nodes[i];
    void *parameters[MAX_PARAMETERS];
    for (int j = 0; j < MAX_PARAMETERS; j++) parameters[j] = node->values[j];
    if (node->event)
      *(float *)node->event = now += 0.0005f;
    else
      node->function->run(parameters), now += 0.002f;
  }
  OK;
}

/* -- the rest ------------------------------------------------------------------------------------------------------- */

STUB(cuTensorMapEncodeTiled)(CUtensorMap *map, CUtensorMapDataType dtype, cuuint32_t rank, void *address,
                             const cuuint64_t *sizes, const cuuint64_t *strides, const cuuint32_t *box,
                             const cuuint32_t *steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                             CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
  if ((size_t)map % 128 || (size_t)address % 16) return CUDA_ERROR_INVALID_VALUE;
  memset(map, 0xFF, sizeof *map);
  *(void **)map = address;
  if (getenv("JITRT_STUB_TRACE")) {
    printf("map dtype %d interleave %d swizzle %d promotion %d fill %d", dtype, interleave, swizzle, promotion, fill);
    for (unsigned i = 0; i < rank; i++) printf(" size %lu box %u step %u", sizes[i], box[i], steps[i]);
    for (unsigned i = 0; i + 1 < rank; i++) printf(" stride %lu", strides[i]);
    printf("\n");
    fflush(stdout);
  }
  OK;
}
STUB(cuGetErrorName)(CUresult error, const char **text) { *text = "CUDA_ERROR_STUB"; OK; }
STUB(cuGetErrorString)(CUresult error, const char **text) { *text = "as the stub says"; OK; }

#undef cuGetProcAddress
CUresult cuGetProcAddress_v2(const char *symbol, void **function, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *status) {
  char name[256];
  const char *asked = symbol;
  if (!strcmp(symbol, "cuGraphAddDependencies") && version >= 12030) asked = "cuGraphAddDependencies_v2";
  if (!strcmp(symbol, "cuGraphInstantiate")) asked = "cuGraphInstantiateWithFlags";
  snprintf(name, sizeof name, "stub_%s", asked);
  *function = strncmp(symbol, "cuGetProcAddress", 16) ? dlsym(dlopen("libcuda.so.1", RTLD_NOLOAD | RTLD_LAZY), name)
                                                      : (void *)cuGetProcAddress_v2;
  if (status) *status = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
CUresult cuGetProcAddress(const char *symbol, void **function, int version, cuuint64_t flags) {
  return cuGetProcAddress_v2(symbol, function, version, flags, NULL);
}
