// A metrics server whose figures a test chooses: it serves metrics.k8s.io, where a HorizontalPodAutoscaler reads the CPU of pods.
//
//	metrics --listen ADDRESS --load FILE
//
// FILE holds a number, the millicores that a load takes as a whole. Whatever pods are asked for share it equally, as behind a
// Service: so more pods mean less for each, and an autoscaler can find its rest. kubectl on PATH says which pods there are. It ends when
// its standard input is closed.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

const group = "/apis/metrics.k8s.io/v1beta1"

// Over which time the figures are said to be measured: short, so that the autoscaler takes those of a pod that is ready since then.
const window = time.Second

type object = map[string]any

type pod struct {
	Metadata struct {
		Name      string            `json:"name"`
		Namespace string            `json:"namespace"`
		Labels    map[string]string `json:"labels"`
	} `json:"metadata"`
	Spec struct {
		Containers []struct {
			Name string `json:"name"`
		} `json:"containers"`
	} `json:"spec"`
	Status struct {
		Phase string `json:"phase"`
	} `json:"status"`
}

func running(namespace, selector string) ([]pod, error) {
	out, err := exec.Command("kubectl", "get", "pods", "-n", namespace, "-l", selector, "-o", "json").Output()
	if err != nil {
		return nil, fmt.Errorf("kubectl get pods: %w", err)
	}
	var list struct {
		Items []pod `json:"items"`
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, err
	}
	var pods []pod
	for _, pod := range list.Items {
		if pod.Status.Phase == "Running" && len(pod.Spec.Containers) > 0 {
			pods = append(pods, pod)
		}
	}
	return pods, nil
}

func measured(pods []pod, load int) []object {
	items := []object{}
	for _, pod := range pods {
		items = append(items, object{
			"metadata":  object{"name": pod.Metadata.Name, "namespace": pod.Metadata.Namespace, "labels": pod.Metadata.Labels},
			"timestamp": time.Now().UTC().Format(time.RFC3339),
			"window":    window.String(),
			"containers": []object{{
				"name":  pod.Spec.Containers[0].Name,
				"usage": object{"cpu": fmt.Sprintf("%dm", load/len(pods)), "memory": "64Mi"},
			}},
		})
	}
	return items
}

// podMetrics answers GET .../namespaces/NAMESPACE/pods?labelSelector=SELECTOR.
func podMetrics(file string, request *http.Request) (object, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	load, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("%s must hold a number of millicores: %w", file, err)
	}
	pods, err := running(request.PathValue("namespace"), request.URL.Query().Get("labelSelector"))
	if err != nil {
		return nil, err
	}
	log.Printf("%s %d pods share %d millicores", request.URL, len(pods), load)
	return object{"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": object{}, "items": measured(pods, load)}, nil
}

func answer(response http.ResponseWriter, body object, err error) {
	if err != nil {
		log.Print(err)
		http.Error(response, err.Error(), http.StatusInternalServerError)
		return
	}
	response.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(response).Encode(body)
}

// certificate is nobody's: the APIService that leads here says insecureSkipTLSVerify.
func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{signed}, PrivateKey: key}, err
}

func main() {
	listen := flag.String("listen", "", "address and port")
	file := flag.String("load", "", "file with the millicores of the whole load")
	flag.Parse()
	resources := object{
		"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "metrics.k8s.io/v1beta1",
		"resources": []object{{"name": "pods", "singularName": "", "namespaced": true, "kind": "PodMetrics", "verbs": []string{"get", "list"}}},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+group, func(response http.ResponseWriter, _ *http.Request) { answer(response, resources, nil) })
	mux.HandleFunc("GET "+group+"/namespaces/{namespace}/pods", func(response http.ResponseWriter, request *http.Request) {
		body, err := podMetrics(*file, request)
		answer(response, body, err)
	})
	own, err := certificate()
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	server := &http.Server{Addr: *listen, Handler: mux, TLSConfig: &tls.Config{Certificates: []tls.Certificate{own}}}
	log.Fatal(server.ListenAndServeTLS("", ""))
}
